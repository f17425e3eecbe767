"""Milliseconds a step along a run, by what they were spent on, as columns for a plot."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.report.timeline import BETWEEN, OTHER

if TYPE_CHECKING:
    from andon.tracing.analysis.steps import Step
    from andon.tracing.analysis.verdict import Analysis

MOST = 800  # intervals of steps that a plot shows


class Interval:
    """Some steps on end: milliseconds in all by name, and the slowest step."""

    def __init__(self) -> None:
        self.first = self.last = self.count = 0
        self.milliseconds: defaultdict[str, float] = defaultdict(float)
        self.slowest = 0.0

    def add(self, step: "Step") -> None:
        """One more step, with the time to the next."""
        self.first, self.last = self.first or step.number, step.number
        self.count += 1
        inside = {name: each.wall for name, each in step.phases.items()}
        rest = {OTHER: step.seconds.wall - sum(inside.values()), BETWEEN: step.after - sum(step.beside.values())}
        for part in (inside, step.beside, rest):
            for name, seconds in part.items():
                self.milliseconds[name] += 1e3 * max(seconds, 0.0)
        self.slowest = max(self.slowest, 1e3 * (step.seconds.wall + step.after))

    def join(self, other: "Interval") -> None:
        """The steps of the next interval, too."""
        self.last, self.count = other.last, self.count + other.count
        self.slowest = max(self.slowest, other.slowest)
        for name, milliseconds in other.milliseconds.items():
            self.milliseconds[name] += milliseconds


class Intervals:
    """At most MOST intervals of equally many steps: where there would be more, each two become one."""

    def __init__(self) -> None:
        self.found: list[Interval] = []
        self.size = 1

    def add(self, steps: "Sequence[Step]") -> None:
        """More steps; one in which the run measured itself is left out."""
        for step in steps:
            if step.measuring:
                continue
            if not self.found or self.found[-1].count >= self.size:
                if len(self.found) == MOST:
                    self._halve()
                self.found.append(Interval())
            self.found[-1].add(step)

    def _halve(self) -> None:
        for one, other in zip(self.found[::2], self.found[1::2], strict=True):
            one.join(other)
        self.found, self.size = self.found[::2], 2 * self.size

    def columns(self) -> dict[str, Any]:
        """The middle step of each interval, the mean by name, each on top of those before it, and the slowest step."""
        names = list(dict.fromkeys(name for each in self.found for name in each.milliseconds))
        names = [name for name in names if name not in (OTHER, BETWEEN)] + [OTHER, BETWEEN]
        tops, below = [], [0.0] * len(self.found)
        for name in names:
            own = [each.milliseconds.get(name, 0.0) / each.count for each in self.found]
            below = [low + height for low, height in zip(below, own, strict=True)]
            tops.append((name, [round(each, 4) for each in below]))
        slowest = [round(each.slowest, 4) for each in self.found]
        return {"step": [(each.first + each.last) // 2 for each in self.found], "tops": tops, "slowest": slowest}


def read_times(path: Path) -> "tuple[Analysis, dict[str, Any]]":
    """A trace's findings and verdict, and the columns of its plot. Raises TraceError as `read_spans` does."""
    from andon.tracing.analysis.run import analyze

    intervals = Intervals()
    analysis = analyze(path, intervals.add)
    marks = [{"step": each.step, "kind": each.kind.removeprefix("train.")} for each in analysis.findings]
    return analysis, intervals.columns() | {"findings": marks}
