"""The learning rate at a step: a pure function, so that resuming needs no state."""

import math

from andon.core.config import ScheduleConfig


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """Rate of optimizer step `step` (0-based) of `steps`.

    Rises linearly from peak / warmup_steps to peak, then decays to peak x min_ratio at the last step by a half cosine
    (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5) or linearly, or stays constant. After the last step it keeps its
    last value.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.type == "constant":
        return peak
    done_steps, decay_steps = decay_progress(step, steps, warmup)
    done = done_steps / decay_steps
    share = 1 - done if schedule.type == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (schedule.min_ratio + (1 - schedule.min_ratio) * share)


def decay_progress(step: int, steps: int, warmup: int) -> tuple[int, int]:
    """Decay steps done at `step`, which is past the warm-up, and decay steps in all."""
    decay_steps = max(1, steps - 1 - warmup)
    return min(step - warmup, decay_steps), decay_steps
