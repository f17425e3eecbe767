"""What features are standardized by is told by the rows that a run has seen."""

import pytest
import torch
from torch import Tensor, nn

from andon.door.records import Run
from andon.door.statements.standards import check_scale, check_standards
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2

TRAINED, HELD, FEATURES = 64, 48, 5


def standardized(rows: Tensor, by: Tensor) -> Tensor:
    """Rows, less the mean of some and divided by their deviation."""
    return (rows - by.mean(0)) / by.std(0)


def seen(*, together: bool, epochs: int = 2, scaled: bool = True) -> Run:
    """Two epochs of a table, and an evaluation of the rest of it after each."""
    torch.manual_seed(0)
    rows = 3 + torch.randn(TRAINED + HELD, FEATURES) * torch.arange(1, FEATURES + 1)
    rows = standardized(rows, rows if together else rows[:TRAINED]) if scaled else rows
    watching, model = Watching(), nn.Linear(FEATURES, 1)
    optimizer = watching.optimizer(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for each in rows[:TRAINED].split(4):
            watching.step(optimizer, watching.call(model, each).square().mean())
        with torch.no_grad():
            watching.call(model, rows[TRAINED:])
    return watching.run


def test_features_that_were_standardized_with_held_out_rows_are_seen() -> None:
    """Behavior: yellow where all rows together have mean 0 and deviation 1, silent where those trained on have."""
    assert light_of(check_standards, seen(together=True)) is Unusual
    assert light_of(check_standards, seen(together=False)) is None
    assert light_of(check_standards, seen(together=False, scaled=False)) is None


def test_an_epoch_that_has_not_ended_says_nothing_of_all_rows() -> None:
    """Behavior: not applicable where no row comes again."""
    assert light_of(check_standards, seen(together=True, epochs=1)) is NotApplicable


def judged(*, scale: float, again: bool = True) -> Run:
    """Two evaluations at another scale, on the same rows or on others."""
    torch.manual_seed(0)
    watching, model = Watching(), nn.Linear(FEATURES, 1)
    optimizer, held = watching.optimizer(model.parameters(), lr=1e-3), torch.randn(HELD, FEATURES)
    for _ in range(3):
        for _ in range(8):
            watching.step(optimizer, watching.call(model, torch.randn(4, FEATURES)).square().mean())
        with torch.no_grad():
            for each in (held if again else torch.randn(HELD, FEATURES)).split(8):
                watching.call(model, scale * each)
    return watching.run


def test_an_evaluation_at_another_scale_is_seen() -> None:
    """Behavior: yellow at four times the scale, silent at twice; not asked of numbers that are others each time."""
    assert light_of(check_scale, judged(scale=4.0)) is Unusual
    assert light_of(check_scale, judged(scale=2.0)) is None
    assert light_of(check_scale, judged(scale=4.0, again=False)) is NotApplicable
