"""A run that has become slower: its windows of steps compared by a bootstrap over blocks, on processor time.

Steps are autocorrelated, so what is drawn is blocks of them. A window is slower where the lower end of the interval in
which 99% of the ratios lie is above 1.15.
"""

import random
from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from andon.tracing.analysis.steps import Step

BLOCK = 20
LEAST_BLOCKS = 3
SLOWER = 1.15
CONFIDENCE = 0.99
RESAMPLES = 1000


class Blocks(NamedTuple):
    """A window: of each block its first step and median; and processor seconds a step by phase."""

    steps: list[int]
    medians: list[float]
    phases: dict[str, float]


def blocks_of(steps: Sequence[Step]) -> Blocks:
    """Blocks of steps, a rest joined to the last."""
    count = max(len(steps) // BLOCK, 1)
    ends = [*range(BLOCK, count * BLOCK, BLOCK), len(steps)]
    parts = [steps[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    names = dict.fromkeys(name for step in steps for name in step.phases)
    phases = {name: median(step.phases[name].cpu if name in step.phases else 0.0 for step in steps) for name in names}
    medians = [median(step.seconds.cpu for step in part) for part in parts if part]
    return Blocks([part[0].number for part in parts if part], medians, phases)


def interval(of: Sequence[float], to: Sequence[float]) -> tuple[float, float]:
    """Between what the ratio of two means lies with CONFIDENCE, drawing blocks."""
    chance = random.Random(0)  # noqa: S311 - drawn blocks, apart from the training's own draws
    ratios = sorted(
        fmean(chance.choices(of, k=len(of))) / max(fmean(chance.choices(to, k=len(to))), 1e-12)
        for _ in range(RESAMPLES)
    )
    outside = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return ratios[outside], ratios[-1 - outside]


class SlowDown(NamedTuple):
    """From which step on, in which phase most, and by what share a run is slower."""

    step: int
    phase: str
    by: float


class Slowing:
    """Follows a run window by window."""

    def __init__(self) -> None:
        self.found: SlowDown | None = None  # the worst
        self.extra = 0.0  # seconds by the clock that slow windows took more than usual
        self._usual: Blocks | None = None
        self._level: Blocks | None = None  # the last window that a finding was about, else the usual
        self._before: Blocks | None = None

    def add(self, steps: Sequence[Step]) -> SlowDown | None:
        """The next window; what was found in it."""
        if len(steps) < LEAST_BLOCKS * BLOCK:
            return None
        own, before = blocks_of(steps), self._before
        self._before = own
        if self._usual is None or self._level is None:
            self._usual = self._level = own
            return None
        mean = fmean(own.medians)
        self._note_extra(steps, mean / max(fmean(self._usual.medians), 1e-12))
        ratio = mean / max(fmean(self._level.medians), 1e-12)
        if 1 / SLOWER <= ratio <= SLOWER:
            return None
        low, high = interval(own.medians, self._level.medians)
        if high < 1 / SLOWER:
            self._level = own
            self._usual = min(self._usual, own, key=lambda each: fmean(each.medians))
        if low <= SLOWER:
            return None
        found = self._found(own, before, self._level, ratio)
        self._level = own
        self.found = max(self.found or found, found, key=lambda each: each.by)
        return found

    def _note_extra(self, steps: Sequence[Step], ratio: float) -> None:
        if ratio > SLOWER:
            self.extra += sum(step.seconds.wall for step in steps) * (1 - 1 / ratio)

    def _found(self, own: Blocks, before: Blocks | None, level: Blocks, ratio: float) -> SlowDown:
        between = fmean(level.medians) * ratio**0.5
        blocks = [*zip(own.steps, own.medians, strict=True)]
        earlier = [*zip(before.steps, before.medians, strict=True)] if before and before is not level else []
        first = next((step for step, each in blocks if each > between), own.steps[0])
        for step, each in reversed(earlier if first == own.steps[0] else []):
            if each <= between:
                break
            first = step
        more = {name: seconds - level.phases.get(name, 0.0) for name, seconds in own.phases.items()}
        return SlowDown(first, max(more, key=more.__getitem__, default=""), ratio - 1)
