"""A series as it goes: the rule for what stands out of the values before."""

import math
from bisect import bisect_left, insort
from collections import deque

BEFORE = 100  # values that one is compared with
LEAST = 20  # with fewer there is no comparison
DEVIATIONS = 8.0  # median absolute deviations
FACTOR = 2.0


class Rolling:
    """The last values. One stands out that is twice their median and 8 median absolute deviations above it."""

    def __init__(self, *, logarithms: bool = False) -> None:
        self.logarithms = logarithms
        self._times: deque[float] = deque()
        self._sorted: list[float] = []

    def score(self, value: float, above: float = 0.0) -> float:
        """How many times the median a value is that stands out, else 0; from then on it is one of the last.

        It stands out by more than `above`, besides.
        """
        if not math.isfinite(value) or (self.logarithms and value <= 0):
            return 0.0
        own = math.log(value) if self.logarithms else value
        times = self._times_median(own, above)
        self._times.append(own)
        insort(self._sorted, own)
        if len(self._times) > BEFORE:
            del self._sorted[bisect_left(self._sorted, self._times.popleft())]
        return times

    def _times_median(self, value: float, above: float) -> float:
        count = len(self._sorted)
        if count < LEAST:
            return 0.0
        middle = middle_of(self._sorted)
        least = middle + math.log(FACTOR) if self.logarithms else FACTOR * middle
        if value <= least:
            return 0.0
        deviation = middle_of(sorted(abs(each - middle) for each in self._sorted))
        if value - middle <= max(DEVIATIONS * deviation, above):
            return 0.0
        return math.exp(min(value - middle, 700.0)) if self.logarithms else value / max(middle, 1e-9)


def middle_of(ordered: list[float]) -> float:
    """The median of values in order."""
    count = len(ordered)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
