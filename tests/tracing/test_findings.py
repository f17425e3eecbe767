"""What is found in a run's steps while it goes on, on synthetic series."""

import math
import random
from collections.abc import Callable

import pytest

from andon.tracing.analysis.slowing import interval
from andon.tracing.analysis.steps import Seconds, Step
from tests.tracing.synthetic import WINDOW, analyzed, plain_steps, times

pytestmark = pytest.mark.tier1
AT = 250


def changed(count: int, change: Callable[[Step], Step], seed: int = 0) -> list[tuple[str, int]]:
    """Kinds and steps of what is found once each step was changed."""
    return [(each.kind, each.step) for each in analyzed([change(each) for each in plain_steps(count, seed)]).findings]


def test_clean_steps_show_nothing() -> None:
    """Behavior: in 10,000 steps whose time drifts there is neither a stall nor a spike of loss or gradient."""
    found = {each.kind for each in analyzed(plain_steps(10_000, 0, drift=0.9)).findings}
    assert found <= {"train.plateau"}  # a loss as n^-0.1 does become flat


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("train.stall", lambda step: times(step, 3)),
        ("train.loss_spike", lambda step: step._replace(loss=3 * step.loss)),
        ("train.gradient_jump", lambda step: step._replace(norm=68 * step.norm)),
    ],
)
def test_a_step_that_stands_out_is_found(kind: str, change: Callable[[Step], Step]) -> None:
    """Behavior: a step of three times the time or loss, or a jump of the gradient, is found at its step, and alone."""
    assert [(kind, AT)] == changed(400, lambda step: change(step) if step.number == AT else step)


def test_a_step_is_compared_before_it_counts() -> None:
    """Behavior: as early as twenty steps are known; and of several in a window the worst is told, with their number."""
    early = changed(100, lambda step: times(step, 3) if step.number == 22 else step)
    assert [("train.stall", 22)] == early
    found = analyzed([times(each, {250: 3, 260: 5}.get(each.number, 1)) for each in plain_steps(400, 0)]).findings
    (stall,) = found
    assert (260, 2) == (stall.step, stall.numbers["count"])
    assert "and 1 more from this window" in stall.text


def test_the_clock_alone_is_no_stall() -> None:
    """Behavior: a window in which phases wait for a processor is a busy machine, said once until it is over."""

    def waits(step: Step) -> Step:
        forward = step.phases["forward"]
        busy = 100 < step.number <= 300
        longer = forward._replace(wall=4 * forward.wall if busy else forward.wall)
        wall = sum(each.wall for each in (step.phases | {"forward": longer}).values())
        return step._replace(seconds=Seconds(wall, step.seconds.cpu), phases=step.phases | {"forward": longer})

    assert [("train.machine_busy", 200)] == changed(500, waits)


def test_spinning_threads_are_not_measured() -> None:
    """Behavior: where threads wait actively, stalls are not measured, and the verdict says so; passive ones count."""
    steps = [times(each, 3 if each.number == AT else 1) for each in plain_steps(400, 0)]
    for attributes, found in (
        ({"train.threads": 2}, 0),
        ({"train.threads": 2, "train.passive_waiting": True}, 1),
        ({"train.threads": 1}, 1),
    ):
        analysis = analyzed(steps, attributes)
        verdict = analysis.verdict()
        assert verdict
        assert found == len(analysis.findings)
        assert bool(found) == (not verdict.notes)


def test_a_slow_down_is_found_once_in_its_phase() -> None:
    """Behavior: half as much time again is found once, from its step on; also after the run has recovered."""
    found = analyzed(
        [times(each, 1.5 if each.number > 320 else 1, "backward") for each in plain_steps(900, 0)]
    ).findings
    (slow,) = found
    assert ("train.slow_down", "backward") == (slow.kind, slow.numbers["phase"])
    assert abs(slow.step - 321) <= 20
    assert ["train.slow_down"] == [
        kind for kind, _ in changed(700, lambda step: times(step, 4 if step.number > 300 else 1))
    ]
    again = changed(1200, lambda step: times(step, 2 if 300 < step.number <= 600 or step.number > 900 else 1))
    assert ["train.slow_down"] * 2 == [kind for kind, _ in again if kind == "train.slow_down"]


def test_blocks_are_drawn() -> None:
    """Reference: the interval of a ratio of means holds the true one in 99% of draws, or nearly so of few blocks."""
    chance, inside = random.Random(1), 0
    for _ in range(100):
        one, other = ([chance.gauss(10, 1) for _ in range(12)] for _ in range(2))
        low, high = interval(one, other)
        inside += low <= 1 <= high
    assert inside >= 94


def test_memory_that_grows_and_a_loss_that_does_not_fall() -> None:
    """Behavior: memory that grows in five windows on end is found, once; four, or a single jump, are not."""
    grows = changed(1000, lambda step: step._replace(peak_bytes=10**8 + 10**6 * min(step.number // WINDOW, 6)))
    assert [("train.memory_growth", 600)] == [each for each in grows if each[0] == "train.memory_growth"]
    jump = changed(1000, lambda step: step._replace(peak_bytes=10**8 * (1 + (step.number > 300))))
    assert "train.memory_growth" not in dict(jump)


def test_a_plateau_is_found_once() -> None:
    """Behavior: five windows without a lower loss, said once until it falls; a falling loss shows none."""

    def loss(step: Step) -> Step:
        return step._replace(loss=4 * math.exp(-0.001 * min(step.number, 500)))

    assert [("train.plateau", 1100)] == changed(1500, loss)
    assert [] == changed(1500, lambda step: step._replace(loss=4 * math.exp(-0.001 * step.number)))


def test_what_is_not_finite_is_left_out() -> None:
    """Behavior: steps without a loss, or with one that is no number, and the measuring one, disturb nothing."""
    assert [] == changed(400, lambda step: step._replace(loss=math.nan, norm=math.inf))
    assert [] == changed(
        400, lambda step: times(step, 50)._replace(measuring=True) if step.number in (1, 300) else step
    )
