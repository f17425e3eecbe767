"""Arithmetic of interleaved measurements: ratios free of drift, and intervals over rounds."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom (NIST/SEMATECH e-Handbook, section 1.3.6.7.2).
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Interval(NamedTuple):
    """A ratio, and the bounds of its 95% confidence interval."""

    ratio: float
    low: float
    high: float


def over_products(steps: Sequence[float], products: Sequence[float]) -> float:
    """The median of each step's seconds over the mean of the products just before and just after it.

    A machine that slows down or speeds up evenly changes both alike.

    Raises:
        ValueError: there is not one more run of the products than there are steps.
    """
    if len(products) != len(steps) + 1:
        raise ValueError(f"{len(steps)} steps stand between {len(steps) + 1} runs of the products, not {len(products)}")
    around = [(before + after) / 2 for before, after in pairwise(products)]
    return statistics.median(step / product for step, product in zip(steps, around, strict=True))


def geometric_mean(ratios: Sequence[float]) -> Interval:
    """Mean of the logarithms over rounds, with Student's t interval.

    Raises:
        ValueError: fewer than 2 rounds, or more than the table of t knows.
    """
    if not 2 <= len(ratios) <= len(STUDENT) + 1:
        raise ValueError(f"an interval needs 2 to {len(STUDENT) + 1} rounds, not {len(ratios)}")
    logs = [math.log(ratio) for ratio in ratios]
    center = statistics.fmean(logs)
    half = STUDENT[len(logs) - 2] * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(center), math.exp(center - half), math.exp(center + half))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Ours over theirs, round by round: below 1 we are faster, and for certain where `high` is."""
    return geometric_mean([mine / other for mine, other in zip(ours, theirs, strict=True)])
