"""Texts that are generated: what each pass is given."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from andon.door.records import Run
from andon.door.statements.evaluation import check_same_input
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import WORDS, Bag, Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
TEXT = torch.randint(1, WORDS, (2, 30), generator=torch.Generator().manual_seed(0))


def generated(texts: Iterable[Tensor], *, trains: bool = False) -> Run:
    """Passes on these, at one line."""
    watching, model = Watching(), nn.Sequential(Bag()).train(trains)
    with torch.no_grad():
        for each in texts:
            watching.call(model, each)
    return watching.run


LAST = [TEXT[:, :end][:, -8:] for end in range(2, 20)]
FIRST = [TEXT[:, :end][:, :8] for end in range(2, 20)]
ONE_WORD = [torch.full((2, min(end, 8)), 3) for end in range(2, 20)]
TIMED = [TEXT[:, :end] for end in (4, 8, 12, 16, 20) for _ in range(6)]
CHOICES = [TEXT[:, :8]] * 12


@pytest.mark.parametrize(
    ("texts", "light"),
    [(LAST, None), (FIRST, Unusual), (ONE_WORD, None), (TIMED, NotApplicable), (CHOICES, NotApplicable)],
    ids=["last tokens", "first tokens", "one word again and again", "timed by length", "one text"],
)
def test_a_context_keeps_the_last_tokens(texts: list[Tensor], light: Light) -> None:
    """Behavior: a text that grew and then stands still is yellow; one that is repeated for another reason is not."""
    assert light_of(check_same_input, generated(texts)) is light


def test_train_mode_is_not_asked() -> None:
    """Behavior: under dropout one text may be read again and again."""
    assert light_of(check_same_input, generated(FIRST, trains=True)) is NotApplicable
