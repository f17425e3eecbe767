"""The bench's arithmetic: ratios that drift cannot bend, and intervals that hold what they promise."""

import math

import pytest

from tests.bench.ratios import STUDENT, geometric_mean, over_products, paired

pytestmark = pytest.mark.tier1


def test_even_drift_leaves_the_ratio_alone() -> None:
    """A machine that slows evenly from run to run gives the same ratio as a steady one. (Behavior)"""
    speeds = [1.0 + 0.1 * place for place in range(9)]  # products, step, products, step, ...
    products = [speed * 2 for speed in speeds[::2]]
    steps = [speed * 3 for speed in speeds[1::2]]
    assert 1.5 == pytest.approx(over_products(steps, products))
    assert 1.5 != pytest.approx(over_products(steps, [products[0]] * len(products)))


def test_a_single_disturbed_step_does_not_move_the_ratio() -> None:
    """The median over steps ignores one that something interrupted. (Behavior)"""
    assert 1.5 == over_products([3.0, 30.0, 3.0], [2.0, 2.0, 2.0, 2.0])


def test_products_must_stand_around_every_step() -> None:
    """As many products as steps, or two more, is an error that says how many are wanted. (Behavior)"""
    for count in (2, 4):
        with pytest.raises(ValueError, match="2 steps stand between 3 runs"):
            over_products([1.0, 1.0], [1.0] * count)


def test_interval_of_equal_rounds_is_a_point() -> None:
    """Rounds that agree leave no doubt, and the mean is geometric: a half and a double make one. (Behavior)"""
    assert (0.9, 0.9, 0.9) == pytest.approx(geometric_mean([0.9, 0.9, 0.9]))
    assert 1.0 == pytest.approx(geometric_mean([0.5, 2.0]).ratio)


def test_interval_is_students() -> None:
    """Logs -0.1, 0 and 0.1 have mean 0 and half-width t(0.975, 2) x 0.1 / sqrt(3). (Reference: the formula)"""
    half = 4.303 * 0.1 / math.sqrt(3)
    found = geometric_mean([math.exp(-0.1), 1.0, math.exp(0.1)])
    assert (1.0, math.exp(-half), math.exp(half)) == pytest.approx(found)


def test_the_table_of_student_holds_95_percent() -> None:
    """Each quantile has 97.5% of Student's density below it. (Reference: the density, integrated by Simpson's rule)"""
    for freedom, quantile in enumerate(STUDENT, start=1):
        scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
        points = [quantile * place / 400 for place in range(401)]
        density = [scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2) for t in points]
        inner = 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2])
        below = 0.5 + (density[0] + inner + density[-1]) * quantile / 1200
        assert 0.975 == pytest.approx(below, abs=5e-5)


def test_pairing_removes_what_a_round_has_in_common() -> None:
    """Rounds that differ threefold, but alike for both, still show which is faster. (Behavior)"""
    theirs = [1.0, 3.0, 2.0, 1.5]
    found = paired([0.90, 2.73, 1.78, 1.35], theirs)
    assert 0.88 < found.low < found.ratio < found.high < 0.92


def test_one_round_has_no_interval() -> None:
    """A single round says nothing of the spread, and more rounds than t is known for are refused. (Behavior)"""
    for count in (1, len(STUDENT) + 2):
        with pytest.raises(ValueError, match="rounds"):
            geometric_mean([1.0] * count)


def test_rounds_are_paired_one_to_one() -> None:
    """A round that one of the two lacks is an error, not a pair with another round. (Behavior)"""
    with pytest.raises(ValueError, match="shorter"):
        paired([1.0, 1.0, 1.0], [1.0, 1.0])
