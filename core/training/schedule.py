"""The learning rate at a step: a pure function, so that resuming needs no state."""

import math

from andon.core.config import ScheduleConfig


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """Rate of optimizer step `step` (0-based) of `steps`.

    Rises linearly from peak / warmup_steps to peak, then falls to peak x min_ratio at the last step by a half cosine
    (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5) or a line, or stays. Beyond the last step it stays at the end.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.type == "constant":
        return peak
    fallen, fall = fall_steps(step, steps, warmup)
    done = fallen / fall
    share = 1 - done if schedule.type == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (schedule.min_ratio + (1 - schedule.min_ratio) * share)


def fall_steps(step: int, steps: int, warmup: int) -> tuple[int, int]:
    """How many steps of the fall from the peak lie behind `step`, which is past the warm-up, and how many there are."""
    fall = max(1, steps - 1 - warmup)
    return min(step - warmup, fall), fall
