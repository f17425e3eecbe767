"""Kinds of step, on synthetic series."""

import random
from collections.abc import Sequence

import pytest

from andon.tracing.analysis.kinds import kinds_of, labels, table_of, words
from tests.tracing.synthetic import agreement, mixed, plain_steps, times

pytestmark = pytest.mark.tier1


def found(steps: Sequence, own: Sequence[int]) -> float:
    """How well the kinds agree with those that were planted."""
    return agreement(labels(table_of(steps)[1]).tolist(), own)


@pytest.mark.parametrize("seed", range(3))
def test_clean_steps_are_of_one_kind(seed: int) -> None:
    """Behavior: noise, drift and a few stalls make no kind."""
    steps = plain_steps(400, seed, drift=0.9)
    steps[77] = times(steps[77], 4)
    assert ["one kind of step"] == words(kinds_of(steps))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_a_mixture_is_taken_apart(share: float) -> None:
    """Behavior: steps that take twice as long are found, from 2% of all on, with examples and what differs."""
    steps, own = mixed(600, share, 2.0, 0)
    assert found(steps, own) >= 0.95
    usual, other = kinds_of(steps)
    assert abs(other.share - sum(own) / 600) < 0.005
    assert all(own[number - 1] for number in other.examples)
    assert words([usual, other])[0] == "2 kinds of step"
    assert "backward 2" in words([usual, other])[2]


def test_a_small_difference_is_none() -> None:
    """Behavior: 1.3 times, or 3 times of a phase that is a hundredth of the step, is one kind."""
    assert 1 == len(kinds_of(mixed(400, 0.3, 1.3, 0)[0]))
    chance = random.Random(0)
    assert 1 == len(kinds_of([times(each, chance.choice((1, 3)), "clip") for each in plain_steps(400, 0)]))


def test_too_few_steps() -> None:
    """Behavior: nothing is said of fewer than forty, or of steps without phases."""
    assert "not measured" in words(kinds_of(plain_steps(39, 0)))[0]
    assert [] == kinds_of([step._replace(phases={}) for step in plain_steps(60, 0)])


def test_agreement_is_the_adjusted_rand_index() -> None:
    """Reference: 1 for the same parts under other names, 0 on chance's level, and the formula's value between."""
    assert 1.0 == agreement([0, 0, 1, 1], [5, 5, 3, 3])
    assert 0.0 == agreement([0, 0, 0, 0], [0, 0, 1, 1])
    assert 0.57142857 == pytest.approx(agreement([0, 0, 1, 2], [0, 0, 1, 1]))
