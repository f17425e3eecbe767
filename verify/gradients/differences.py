"""The derivative of a function of one number by central differences, with an error that was measured.

Steps are halved and extrapolated to zero (Richardson 1911; Ridders 1982, "Accurate computation of F'(x) and F'(x)
F''(x)"), and the entry of the table whose estimated error is smallest is taken. Rounding is measured, not derived from
a dtype, as code that says float64 may compute in float32 inside (Moré and Wild 2011, "Estimating computational noise").
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

Function = Callable[[float], float]
LEVELS = 6  # steps of one table
POINTS, ORDER = 10, 7  # of the table of differences from which noise is read
SIGMAS = 8.0  # of rounding that is allowed for: the noise comes from three samples


class Derivative(NamedTuple):
    """A value, and how far it may be off: by truncation, and by rounding."""

    value: float
    truncation: float
    rounding: float

    @property
    def error(self) -> float:
        """Both together."""
        return self.truncation + self.rounding


def derivative(function: Function, step: float, noise: float, wanted: float) -> Derivative:
    """f'(0) from values at step, step / 2, ... on both sides, until the error is below `wanted`.

    `noise` is the standard deviation of one value.
    """
    best = Derivative(math.nan, math.inf, math.inf)
    above: list[float] = []
    rounding_above: list[float] = []
    for level in range(LEVELS):
        h = step / 2**level
        row = [(function(h) - function(-h)) / (2 * h)]
        rounding = [noise / (math.sqrt(2) * h)]
        for column in range(1, level + 1):
            weight = 4.0**column
            row.append((weight * row[-1] - above[column - 1]) / (weight - 1))
            rounding.append((weight * rounding[-1] + rounding_above[column - 1]) / (weight - 1))
            truncation = max(abs(row[-1] - row[-2]), abs(row[-1] - above[column - 1]))
            found = Derivative(row[-1], truncation, SIGMAS * rounding[-1])
            if found.error < best.error:
                best = found
        if level and (best.error <= wanted or best.truncation <= best.rounding):
            break
        above, rounding_above = row, rounding
    return best


def noise(function: Function, spacing: float) -> float:
    """The standard deviation of rounding in one value, from high differences of values a small spacing apart.

    What is smooth vanishes from a seventh difference; what is not leaves sigma^2 (2k)! / (k!)^2 in its square.
    """
    values = [function(spacing * point) for point in range(POINTS)]
    for _ in range(ORDER):
        values = [after - before for before, after in pairwise(values)]
    return math.sqrt(sum(value * value for value in values) / len(values) / math.comb(2 * ORDER, ORDER))
