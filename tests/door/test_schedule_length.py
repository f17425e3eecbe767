"""How long a schedule of lambdas is, and whether it has gone its way when the run ends."""

import math
import sys
from collections.abc import Callable
from itertools import count

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from andon.door.places import Place
from andon.door.records import Optimizing, Run, Scheduling
from andon.door.schedule_length import length_of
from andon.door.statements.schedule import check_schedule_length
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Light, light_of

pytestmark = pytest.mark.tier2
STEPS = 40
Lambda = Callable[[int], float]


def linear(step: int) -> float:
    """A warm-up of 4 steps, then down to nothing."""
    return step / 4 if step < 4 else max(0.0, (STEPS - step) / (STEPS - 4))


def cosine(step: int) -> float:
    """Down, and up again after its length."""
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def stable(step: int) -> float:
    """Level, then down to a tenth, where it stays."""
    return min(1.0, max(0.1, (STEPS - step) / 10))


def fails(step: int) -> float:
    """A table that ends."""
    return [1.0, 0.5, 0.1][step]


def made(*lambdas: Lambda) -> LambdaLR:
    """A schedule of an optimizer with a group for each."""
    groups = [{"params": [nn.Parameter(torch.ones(2))]} for _ in lambdas]
    return LambdaLR(torch.optim.SGD(groups, lr=0.1), list(lambdas))


@pytest.mark.parametrize(
    ("lambdas", "length"),
    [
        ([linear], STEPS),
        ([cosine], STEPS),
        ([stable], STEPS - 1),
        ([linear, lambda _: 1.0], STEPS),
        ([lambda _: 1.0], None),
        ([lambda step: min(1.0, step / 10)], None),
        ([lambda step: 0.95**step], None),
        ([lambda step: 0.5**step], None),
        ([lambda step: 0.9 ** (step // 5)], None),
        ([lambda step: (step + 1) ** -0.5], None),
        ([lambda step: (step / STEPS) % 1.0], None),
    ],
)
def test_the_length_is_where_lambdas_end(lambdas: list[Lambda], length: int | None) -> None:
    """Behavior: at their least value after the peak; none where they never come down, or go on to."""
    assert length == length_of(made(*lambdas), STEPS)


def ended(function: Lambda, calls: int, *, ended: bool = True) -> Run:
    """A run whose schedule went on so often."""
    schedule = made(function)
    optimizing = Optimizing(schedule.optimizer, Place("train.py", 1), steps=STEPS)
    key = id(schedule.optimizer)
    return Run(optimizing={key: optimizing}, scheduling={1: Scheduling(schedule, None, key, calls=calls)}, ended=ended)


@pytest.mark.parametrize(
    ("function", "calls", "light"),
    [(linear, STEPS, None), (linear, 3, Unusual), (cosine, 3, Unusual), (fails, 3, NotApplicable)],
)
def test_a_schedule_of_steps_that_goes_on_by_epochs_is_yellow(function: Lambda, calls: int, light: Light) -> None:
    """Behavior: one whose lambdas end with the run's steps, and that went on a few times; not one that fails."""
    assert light is light_of(check_schedule_length, ended(function, calls))


def test_lambdas_are_asked_at_the_end_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Behavior: not in a run that is stopped; one with a state of its own is not read, and none is heard."""
    asked = count()

    def counts(step: int) -> float:
        sys.stdout.write("asked")
        return linear(step) + 0.01 * next(asked)

    runs = [ended(counts, 3, ended=each) for each in (False, True)]
    begun, _ = next(asked), capsys.readouterr()
    with pytest.raises(NotApplicable, match="comes to its end"):
        check_schedule_length(runs[0])
    assert next(asked) == begun + 1
    with pytest.raises(NotApplicable, match="says the same"):
        check_schedule_length(runs[1])
    assert not capsys.readouterr().out
