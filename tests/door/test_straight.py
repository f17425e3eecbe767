"""Straight-through estimators, and terms of a loss that nothing learns from."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.straight import check_straight_through
from andon.door.records import Run
from andon.door.sampling import Sample
from andon.door.statements.idle_terms import check_idle_term
from andon.door.terms import idle_terms_of
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


class Rounded(nn.Module):
    """An autoencoder whose codes are rounded; with a table, the table's entries are learned."""

    def __init__(self, way: str, *, learned: bool = False) -> None:
        super().__init__()
        self.way, self.learned = way, learned
        self.encode, self.decode, self.table = nn.Linear(4, 3), nn.Linear(3, 4), nn.Embedding(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) to the same."""
        z = self.encode(x)
        q = self.table(z.argmax(-1)) if self.learned else z.detach().round()
        ways = {
            "detached": lambda: z + (q - z).detach(),
            "lost": lambda: z + (q - z),
            "turned": lambda: (q - z) + z,
            "half": lambda: z + 0.5 * (q - z),
            "plain": lambda: z + q,
        }
        return self.decode(ways[self.way]())


@pytest.mark.parametrize(
    ("way", "learned", "light"),
    [
        ("detached", False, None),
        ("detached", True, None),
        ("lost", False, CheckFailed),
        ("turned", False, CheckFailed),
        ("lost", True, Unusual),
        ("half", False, NotApplicable),
        ("plain", False, NotApplicable),
    ],
)
def test_a_difference_that_is_added_again_is_detached(way: str, learned: bool, light: Light) -> None:
    """Behavior: without its detach it is red, yellow where the other side is learned; part of the way is right."""
    torch.manual_seed(0)

    def loss_of(call: Call, x: Tensor) -> Tensor:
        return functional.mse_loss(call(x), x)

    assert light is light_of(
        check_straight_through, recorded(Rounded(way, learned=learned), loss_of, torch.randn(8, 4))
    )


class WithTerm(nn.Module):
    """A prediction, and a number beside it that may have lost its gradient."""

    def __init__(self, *, idle: bool) -> None:
        super().__init__()
        self.idle, self.layer = idle, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 4) to the same, and a number."""
        y = self.layer(x)
        return y, (y.detach() if self.idle else y).square().mean()


def summed(*, idle: bool) -> Captured:
    """A loss of two terms."""

    def loss_of(call: Call, x: Tensor) -> Tensor:
        y, term = call(x)
        return functional.mse_loss(y, x) + 0.25 * term

    return recorded(WithTerm(idle=idle), loss_of, torch.randn(8, 4))


def test_terms_without_a_gradient_are_seen() -> None:
    """Behavior: the second of two, before its factor; none where all have one."""
    torch.manual_seed(0)
    assert ["term 2 of 2"] == list(idle_terms_of(summed(idle=True)))
    assert not idle_terms_of(summed(idle=False))


@pytest.mark.parametrize(
    ("values", "light"),
    [
        ([0.5, 0.4, 0.3], Unusual),
        ([0.5, 0.5, 0.5], None),
        ([0.5, 0.0, 0.3], None),
        ([0.5, 0.4], NotApplicable),
        ([], NotApplicable),
    ],
    ids=["moves", "a constant", "at times nothing", "few", "none"],
)
def test_a_term_that_moves_is_learned_from(values: list[float], light: Light) -> None:
    """Behavior: a term without a gradient that is another number each time is yellow; constants are not asked."""
    run = Run()
    run.samples = [Sample(1, step, "", idle_terms={"term 2 of 2": each}) for step, each in enumerate(values)]
    assert light is light_of(check_idle_term, run)
