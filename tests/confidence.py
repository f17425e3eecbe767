"""How rare a thing must be that was seen so seldom."""

import math

CONFIDENCE = 0.95


def highest_share(alarms: int, runs: int) -> float:
    """The largest rate of false alarms that leaves so few, with this confidence, in so many runs.

    Clopper and Pearson 1934, one-sided: about 3 / n where none is an alarm.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        chance = sum(math.comb(runs, k) * share**k * (1 - share) ** (runs - k) for k in range(alarms + 1))
        low, high = (share, high) if chance > 1 - CONFIDENCE else (low, share)
    return high
