"""Two runs side by side, on synthetic series."""

import pytest

from andon.tracing.analysis.diff import paired_rows, rows, student_above, student_quantile
from tests.tracing.synthetic import DRIFT, plain_steps, times

pytestmark = pytest.mark.tier1


def slower(seed: int, factor: float, phase: str = "forward") -> list[str]:
    """What is found slower by more than 5%: a run of 400 steps, and another in which a phase takes longer."""
    before, after = (plain_steps(400, seed + each, drift=DRIFT) for each in (0, 1000))
    return [row.name for row in rows(before, [times(each, factor, phase) for each in after], 0.05) if row.slower]


def test_the_same_code_is_not_slower() -> None:
    """Behavior: of twenty pairs of equal runs whose steps drift, one at most is red."""
    assert sum(bool(slower(seed, 1.0)) for seed in range(20)) <= 1


def test_a_slower_phase_is_named() -> None:
    """Behavior: a forward pass that is 15% slower is found in eighteen of twenty pairs, and no other phase is named."""
    found = [slower(seed, 1.15) for seed in range(20)]
    assert sum(each == ["forward"] for each in found) >= 18, found


def test_what_a_row_says() -> None:
    """Behavior: share of the step, ratio and interval; a phase below a tenth of the step is shown and never red."""
    before = plain_steps(400, 0)
    found = {row.name: row for row in rows(before, [times(each, 1.3, "clip") for each in plain_steps(400, 1)], 0.05)}
    assert ["step", "data", "forward", "backward", "clip", "optimizer"] == list(found)
    clip = found["clip"]
    assert (False, 1.0) == (clip.slower, found["step"].share)
    assert clip.share < 0.02
    assert clip.cpu.low < 1.3 < clip.cpu.high
    assert clip.cpu.high - clip.cpu.low < 0.1
    assert [] == rows(before, before[:99], 0.05)


@pytest.mark.parametrize(
    ("freedom", "above", "value"),
    [(4, 0.05, 2.1318), (4, 0.025, 2.7764), (4, 0.005, 4.6041), (10, 0.005, 3.1693), (60, 0.05, 1.6706)],
)
def test_students_t(freedom: float, above: float, value: float) -> None:
    """Reference: the printed table (NIST Handbook 1.3.6.7.2), within 6% of probability."""
    assert above == pytest.approx(student_above(value, freedom), rel=0.06)
    assert 1 - above == pytest.approx(student_above(-value, freedom), rel=0.06)


@pytest.mark.parametrize(("freedom", "value"), [(4, 2.7764), (10, 2.2281), (60, 2.0003)])
def test_the_ends_of_an_interval(freedom: float, value: float) -> None:
    """Reference: the same table's values for an interval of 95%, within 1%."""
    assert value == pytest.approx(student_quantile(0.975, freedom), rel=0.01)


def paired(seed: int, factor: float, count: int = 5) -> list[str]:
    """What is slower in pairs of runs of 60 steps made in turn, on a machine that is up to half slower each time."""
    pairs = []
    for number in range(count):
        runs = (plain_steps(60, seed + 100 * number + each) for each in (0, 50))
        a, b = ([times(each, 1 + (number % 3) / 4, "forward") for each in run] for run in runs)
        pairs.append((a, [times(each, factor, "forward") for each in b]))
    return [row.name for row in paired_rows(pairs, 0.05) if row.slower]


def test_pairs_take_a_changing_machine_out() -> None:
    """Behavior: equal commands in turn are one red pair in twenty at most; 15% more is found; two pairs are too few."""
    assert sum(bool(paired(seed, 1.0)) for seed in range(20)) <= 1
    assert all("forward" in paired(seed, 1.15) for seed in range(10))
    assert [] == paired_rows([(plain_steps(60, 0), plain_steps(60, 1))] * 2, 0.05)
    assert [] == paired_rows([(plain_steps(60, 0), plain_steps(30, 1))] * 5, 0.05)
