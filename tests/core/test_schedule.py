"""The learning rate at a step."""

import math
from typing import Any

import pytest

from andon.core.config import ScheduleConfig
from andon.core.training.schedule import learning_rate

pytestmark = pytest.mark.tier1
PEAK = 2e-3


def rates(steps: int, **schedule: Any) -> list[float]:
    """The whole run's."""
    table = ScheduleConfig.model_validate(schedule)
    return [learning_rate(step, steps, PEAK, table) for step in range(steps)]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warm_up_rises_by_equal_steps_to_the_peak(kind: str) -> None:
    """Reference: peak x (step + 1) / warm-up: never zero, and the peak at the warm-up's last step."""
    run = rates(20, type=kind, warmup_steps=5)
    assert pytest.approx([PEAK / 5 * step for step in (1, 2, 3, 4, 5)]) == run[:5]
    assert PEAK == run[4] == max(run)


def test_cosine_is_half_a_cosine_down_to_its_floor() -> None:
    """Reference: arXiv:1608.03983, equation 5, from the peak after the warm-up to min_ratio at the last step."""
    run = rates(15, type="cosine", warmup_steps=4, min_ratio=0.1)
    low = 0.1 * PEAK
    expected = [low + (PEAK - low) * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(11)]
    assert pytest.approx(expected, rel=1e-12) == run[4:]
    assert pytest.approx(low, rel=1e-12) == run[-1]


def test_linear_is_a_line_down_to_its_floor() -> None:
    """Reference: the straight line from the peak to min_ratio at the last step."""
    run = rates(9, type="linear", warmup_steps=4, min_ratio=0.2)
    assert pytest.approx([PEAK * share for share in (1, 0.8, 0.6, 0.4, 0.2)], rel=1e-12) == run[4:]


def test_constant_stays_at_the_peak() -> None:
    """Behavior: after the warm-up nothing changes, whatever the minimum."""
    assert [PEAK] * 6 == rates(8, type="constant", warmup_steps=2, min_ratio=0.0)[2:]


@pytest.mark.parametrize(("kind", "minimum"), [("cosine", 0.0), ("linear", 0.5), ("cosine", 1.0)])
def test_no_warm_up_starts_at_the_peak(kind: str, minimum: float) -> None:
    """Behavior: the first step has the full rate, the last the minimum."""
    run = rates(7, type=kind, warmup_steps=0, min_ratio=minimum)
    assert PEAK == run[0]
    assert pytest.approx(PEAK * minimum, abs=1e-18) == run[-1]
    assert sorted(run, reverse=True) == run


@pytest.mark.parametrize(("kind", "end"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)])
def test_beyond_the_last_step_it_stays_at_the_end(kind: str, end: float) -> None:
    """Behavior: a step past the run does not rise again, as a cosine would."""
    table = ScheduleConfig.model_validate({"type": kind, "warmup_steps": 2, "min_ratio": 0.1})
    assert pytest.approx([PEAK * end] * 3) == [learning_rate(step, 10, PEAK, table) for step in (9, 10, 25)]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate(steps: int) -> None:
    """Behavior: a run of one step, or of warm-up alone, divides by nothing."""
    for warmup in range(steps + 1):
        assert all(0 < rate <= PEAK for rate in rates(steps, warmup_steps=warmup))


def test_a_fall_of_one_step_ends_at_the_floor() -> None:
    """Reference: by hand: the warm-up's step, the peak's, and the last one at min_ratio."""
    assert pytest.approx([PEAK, PEAK, PEAK / 2]) == rates(3, type="linear", warmup_steps=1, min_ratio=0.5)
