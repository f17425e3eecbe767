"""Findings in a run's steps, a window at a time: stalls, slow-downs, spikes, plateaus, memory that grows.

Time is judged on processors: beside other programs the clock alone gives false alarms and hides most stalls. A step is
compared with the steps before it, and only then counts among these.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from andon.tracing.analysis.rolling import Rolling
from andon.tracing.analysis.slowing import Slowing
from andon.tracing.analysis.steps import Step

SHARE = 0.1  # of the time; below it nothing is a finding
GROWING_WINDOWS = 5
GROWTH = 1.005  # a window; less is the allocator's
FLAT = 0.005  # of the loss, in GROWING_WINDOWS
STALL_SECONDS = 0.01  # above the median, at the least: less is a garbage collection's, or the tracing's own
LEAST_STEPS = 20  # of a window that is compared with others
DATA = "data"
KINDS = (  # the worst last
    "train.machine_busy",
    "train.plateau",
    "train.memory_growth",
    "train.stall",
    "train.gradient_jump",
    "train.loss_spike",
    "train.slow_down",
)


class Finding(NamedTuple):
    """What was found in a window, once a kind: the step it is about, when that ended, numbers, and a line of text."""

    kind: str
    step: int
    time: int
    numbers: dict[str, int | float | str]
    text: str


def busy_seconds(step: Step, device: str) -> float:
    """Seconds in which a step's phases waited for a processor: the clock's less the processor's, of all but loading."""
    if device != "cpu":
        return 0.0  # it waits for its device
    return max(0.0, sum(each.wall - each.cpu for name, each in step.phases.items() if name != DATA))


def counts_cpu(attributes: Mapping[str, Any]) -> bool:
    """Whether processor time is work alone: several threads of OpenMP's spin while they wait, by default."""
    threads, passive = attributes.get("train.threads", 1), attributes.get("train.passive_waiting", False)
    return bool(threads == 1 or passive or attributes.get("train.device", "cpu") != "cpu")


class Findings:
    """Looks through a run's windows, in order."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.device = str(attributes.get("train.device", "cpu")).partition(":")[0]
        self.measured = counts_cpu(attributes)
        self.slowing = Slowing()
        self._cpu = Rolling()
        self._loss, self._norm = Rolling(logarithms=True), Rolling(logarithms=True)
        self._peaks: deque[int] = deque(maxlen=GROWING_WINDOWS + 1)
        self._losses: list[float] = []
        self._flat = self._busy = self._first = False

    def add(self, steps: Sequence[Step]) -> list[Finding]:
        """What is found in the next window, the worst last."""
        own = [step for step in steps if not step.measuring]
        if not own:
            return []
        slow = [*self._slow(own)]
        outliers = [each for each in self._outliers(own) if not slow or each.kind != "train.stall"]  # it is one cause
        found = [*outliers, *slow, *self._whole(own)]
        return sorted(found, key=lambda each: KINDS.index(each.kind))

    def _outliers(self, steps: Sequence[Step]) -> Iterator[Finding]:
        """The worst step of each kind that stands out of the 100 before it."""
        cpu = [self._cpu.score(step.seconds.cpu, STALL_SECONDS) for step in steps] if self.measured else []
        loss = [self._loss.score(step.loss) for step in steps]
        norm = [self._norm.score(step.norm) for step in steps]
        for kind, scores, what in (
            ("train.stall", cpu, "processor time"),
            ("train.loss_spike", loss, "loss"),
            ("train.gradient_jump", norm, "gradient norm"),
        ):
            times = max(scores, default=0.0)
            if times:
                step, count = steps[scores.index(times)], sum(map(bool, scores))
                more = f", and {count - 1} more from this window" if count > 1 else ""
                text = f"step {step.number}: {what} {times:.3g} times the median of the steps before{more}"
                yield Finding(kind, step.number, step.end, {"times": times, "count": count}, text)

    def _slow(self, steps: Sequence[Step]) -> Iterator[Finding]:
        """A window that is slower than those before; the first steps of a run warm up and are left out."""
        first, self._first = not self._first, True
        slow = self.slowing.add(steps[LEAST_STEPS:] if first else steps) if self.measured else None
        if slow:
            numbers = {"by": slow.by, "phase": slow.phase}
            text = (
                f"step {slow.step}: slower from here on by {slow.by:.0%} of processor time, most of it in {slow.phase}"
            )
            yield Finding("train.slow_down", slow.step, steps[-1].end, numbers, text)

    def _whole(self, steps: Sequence[Step]) -> Iterator[Finding]:
        """What the window as a whole shows."""
        if len(steps) < LEAST_STEPS:
            return
        last = steps[-1]
        wall = sum(step.seconds.wall for step in steps)
        share = sum(busy_seconds(step, self.device) for step in steps) / max(wall, 1e-12)
        if share >= SHARE and not self._busy:
            text = f"step {last.number}: machine busy: for {share:.0%} of the time the run waited for a processor"
            yield Finding("train.machine_busy", last.number, last.end, {"share": share}, text)
        self._busy = share >= (SHARE / 2 if self._busy else SHARE)  # said once, until it is over
        yield from self._growing(last, max(step.peak_bytes for step in steps))
        yield from self._flattened(last, [step.loss for step in steps])

    def _growing(self, last: Step, peak: int) -> Iterator[Finding]:
        self._peaks.append(peak)
        peaks = list(self._peaks)
        if len(peaks) > GROWING_WINDOWS and all(low and high > GROWTH * low for low, high in pairwise(peaks)):
            self._peaks.clear()
            grown = peaks[-1] - peaks[0]
            text = f"step {last.number}: memory grew in {GROWING_WINDOWS} windows on end, by {grown / 1e6:,.1f} MB"
            yield Finding("train.memory_growth", last.number, last.end, {"bytes": grown}, text)

    def _flattened(self, last: Step, losses: Iterable[float]) -> Iterator[Finding]:
        """A loss that has not fallen in five windows; said once, until it falls again."""
        known = [math.log(loss) for loss in losses if math.isfinite(loss) and loss > 0]
        if not known:
            return
        self._losses.append(median(known))
        before, recent = self._losses[:-GROWING_WINDOWS], self._losses[-GROWING_WINDOWS:]
        flat = bool(before) and min(recent) > min(before) - FLAT
        if flat and not self._flat:
            windows = len(recent)
            text = f"step {last.number}: plateau: the loss has not fallen by {FLAT:.1%} in {windows} windows"
            yield Finding("train.plateau", last.number, last.end, {"windows": windows}, text)
        self._flat = flat
