"""An evaluation gone through in copies of the process: what its figures come to, and what the script does by them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler

from andon.door import rehearsal
from andon.door.fork import Fork
from andon.door.records import Run
from andon.door.rehearsal import Rehearsed
from andon.door.statements.figures import check_better, check_means
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
ROWS, BATCH = 20, 8
REDUCTION = "mean"
Figures = Callable[[list[tuple[float, int, int]]], object]  # loss, right answers and rows of each batch
Follows = Callable[[nn.Module, torch.optim.Optimizer, Any], None]


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Figures, Follows], Run]:
    """Trains and evaluates twice, each with what comes of the figures, and what follows from them."""
    monkeypatch.setattr(rehearsal, "is_alone", lambda: True)

    def run(figures: Figures, follows: Follows = lambda *_: None) -> Run:
        torch.manual_seed(0)
        fork = Fork(tmp_path, 5.0)
        watching, model = Watching(fork), nn.Linear(6, 4)
        optimizer = watching.optimizer(model.parameters())
        x, y = torch.randn(ROWS, 6), torch.randint(4, (ROWS,))
        for _ in range(2):
            for _ in range(5):
                watching.step(optimizer, cross_entropy(watching.call(model, x), y))
            follows(model, optimizer, evaluate(watching, model, x, y, figures))
        watching.step(optimizer, cross_entropy(watching.call(model, x), y))
        watching.run.rehearsed = [Rehearsed(**each["rehearsed"]) for each in fork.gather() if each.get("rehearsed")]
        return watching.run

    return run


@torch.no_grad()
def evaluate(watching: Watching, model: nn.Module, x: Tensor, y: Tensor, figures: Figures) -> object:
    """Batches of eight rows and a rest."""
    seen = []
    for rows, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        scores = watching.call(model, rows)
        loss, right = cross_entropy(scores, labels, reduction=REDUCTION).item(), int((scores.argmax(1) == labels).sum())
        seen.append((loss, right, len(rows)))
    return figures(seen)


@pytest.mark.parametrize(("divisor", "light"), [(2 * BATCH, None), (2, None), (3, Unusual)])
def test_a_sum_of_equal_batches_may_be_divided_by_rows(
    evaluated: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, divisor: int, light: Light
) -> None:
    """Behavior: sums over batches of as many rows may be divided by all rows or by the batches; by nothing else."""
    monkeypatch.setattr("tests.door.test_rehearsal.ROWS", 2 * BATCH)
    monkeypatch.setattr("tests.door.test_rehearsal.REDUCTION", "sum")
    run = evaluated(lambda seen: sum(loss for loss, _, _ in seen) / divisor)
    assert light is light_of(check_means, run)


def mean(seen: list[tuple[float, int, int]]) -> float:
    """Of all rows."""
    return sum(loss * rows for loss, _, rows in seen) / ROWS


def accuracy(seen: list[tuple[float, int, int]]) -> float:
    """Of all rows."""
    return sum(right for _, right, _ in seen) / ROWS


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (mean, ""),
        (accuracy, ""),
        (lambda seen: (mean(seen), 100 * accuracy(seen)), ""),
        (lambda seen: sum(loss for loss, _, _ in seen) / len(seen), ""),
        (lambda seen: sum(right for _, right, _ in seen), "nothing"),
        (lambda seen: mean(seen) / 0.6931471805599453, ""),
        (lambda seen: mean(seen) * ROWS / (3 * BATCH), "0.83333 times the loss"),
        (lambda seen: accuracy(seen) * ROWS / (3 * BATCH), "0.83333 times the share of right answers"),
        (lambda seen: mean(seen) * ROWS / len(seen), "6.6667 times the loss"),
        (lambda seen: sum(loss for loss, _, _ in seen) / ROWS, "0.15 times the loss"),
    ],
    ids=range(10),
)
def test_a_mean_of_equal_numbers_is_that_number(
    evaluated: Callable[[Figures], Run], figures: Figures, said: str
) -> None:
    """Behavior: means, shares, percent and bits pass; counts are not asked; another divisor is yellow."""
    run = evaluated(figures)
    if said == "nothing":
        with pytest.raises(NotApplicable):
            check_means(run)
    elif said:
        with pytest.raises(Unusual, match=said):
            check_means(run)
    else:
        check_means(run)


class Keeps:
    """The best weights by a figure, which is better where it is lower, or higher."""

    def __init__(self, *, higher: bool) -> None:
        self.higher, self.best = higher, None
        self.weights: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module, _: torch.optim.Optimizer, figure: float) -> None:
        """After an evaluation."""
        if self.best is None or (figure > self.best) == self.higher:
            self.best, self.weights = figure, model.state_dict()


class Plateau:
    """A rate that falls where a figure does not become better."""

    def __init__(self, mode: Literal["min", "max"]) -> None:
        self.mode, self.schedule = mode, None

    def __call__(self, _: nn.Module, optimizer: torch.optim.Optimizer, figure: float) -> None:
        """After an evaluation."""
        self.schedule = self.schedule or lr_scheduler.ReduceLROnPlateau(optimizer, self.mode)
        self.schedule.step(figure)


def slows(*, where_good: bool) -> Follows:
    """Half the rate where the loss is low, or where it is high."""

    def follows(_: nn.Module, optimizer: torch.optim.Optimizer, figure: float) -> None:
        if (figure < 1) == where_good:
            optimizer.param_groups[0]["lr"] /= 2

    return follows


@pytest.mark.parametrize(
    ("figures", "follows", "light"),
    [
        (mean, Keeps(higher=False), None),
        (accuracy, Keeps(higher=True), None),
        (mean, Keeps(higher=True), CheckFailed),
        (accuracy, Keeps(higher=False), CheckFailed),
        (mean, Plateau("min"), None),
        (accuracy, Plateau("min"), CheckFailed),
        (mean, slows(where_good=False), None),
        (mean, slows(where_good=True), Unusual),
        (mean, lambda *_: None, NotApplicable),
    ],
    ids=range(9),
)
def test_weights_and_rates_follow_figures_the_right_way(
    evaluated: Callable[[Figures, Follows], Run], figures: Figures, follows: Follows, light: type[Exception] | None
) -> None:
    """Behavior: the best is kept where losses are low or answers right; the other way is red, a rate by hand yellow."""
    run = evaluated(figures, follows)
    if light is None:
        check_better(run)
        return
    with pytest.raises(light) as found:
        check_better(run)
    assert light is type(found.value)


def test_nothing_is_written_in_a_copy(evaluated: Callable[[Figures, Follows], Run], tmp_path: Path) -> None:
    """Behavior: a file that the script writes after its evaluation is written by the script alone, once each time."""
    log = tmp_path / "log"

    def follows(*_: object) -> None:
        with log.open("a") as file:
            file.write("x")

    evaluated(mean, follows)
    assert "xx" == log.read_text()
