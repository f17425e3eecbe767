"""Where a run's time went, in one sentence: the cause, its share, the evidence, the source and what to try next."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from andon.tracing.analysis.findings import DATA, SHARE, Finding, Findings, busy_seconds
from andon.tracing.analysis.steps import Step

COMPUTE = "compute-bound"
PHASES = (DATA, "forward", "backward", "optimizer")  # without one of them, time outside all phases says nothing
NEXT = {
    COMPUTE: "a larger batch, half precision or a faster machine; a profile of forward and backward shows which lines",
    "data-bound": "prepare batches ahead in other processes, or keep what is prepared",
    "validation-heavy": "validate more rarely, or on less (validation.every_steps, validation.max_sequences)",
    "checkpoint-heavy": "save more rarely (checkpoint.every_steps), or to a faster disk",
    "unaccounted": "put spans around what the loop does between its phases and between its steps",
    "gc-heavy": "call gc.freeze() before the loop, or gc.collect() rarely and by hand",
    "machine busy": "end other programs, or use fewer threads than there are free cores",
    "slowing down": "look for what grows with the steps in that phase: a list, a cache, a graph that is kept",
    "not measured": "put spans around the missing phases: data, forward, backward, optimizer",
}


class Cause(NamedTuple):
    """One reason why a run took its time: its share, what shows it, and the phase it is about."""

    name: str
    share: float
    evidence: str
    phase: str = ""


class Verdict(NamedTuple):
    """The first cause, others above a tenth of the time, and what could not be measured."""

    cause: Cause
    others: list[Cause]
    seconds: float
    steps: int
    source: str
    notes: list[str]

    @property
    def next_step(self) -> str:
        """What to try."""
        return NEXT[self.cause.name]

    def attributes(self) -> dict[str, str | int | float]:
        """As an event says it."""
        phase = {"phase": self.cause.phase} if self.cause.phase else {}
        return {"cause": self.cause.name, "share": self.cause.share, "seconds": self.seconds, **phase}

    def sentence(self) -> str:
        """In the terminal and on the page."""
        where = f" ({self.source})" if self.source else ""
        others = "".join(f"; also {each.name}, {each.share:.0%}" for each in self.others)
        head = f"{self.cause.name}, {self.cause.share:.0%} of {self.seconds:.3g} s"
        return f"{head}: {self.cause.evidence}{where}{others}. Next: {self.next_step}"


class Totals:
    """Seconds of a run by what they were spent on."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = self.in_steps = self.collected = self.busy = self.unaccounted = 0.0
        self.phases: defaultdict[str, float] = defaultdict(float)
        self.beside: defaultdict[str, float] = defaultdict(float)

    def add(self, step: Step, device: str) -> None:
        """One step and what came after it."""
        after = sum(step.beside.values())
        self.seconds += step.after
        self.unaccounted += max(0.0, step.after - after)
        for name, seconds in step.beside.items():
            self.beside[name] += seconds
        if step.measuring:
            return
        self.steps += 1
        self.seconds += step.seconds.wall
        self.in_steps += step.seconds.wall
        self.collected += step.collected
        self.busy += busy_seconds(step, device)
        inside = 0.0
        for name, seconds in step.phases.items():
            self.phases[name] += seconds.wall
            inside += seconds.wall
        self.unaccounted += max(0.0, step.seconds.wall - inside - step.collected)


class Analysis:
    """A run, window by window: its findings, and the verdict at any time."""

    def __init__(self, attributes: Mapping[str, Any], sources: Mapping[str, str]) -> None:
        self.totals = Totals()
        self.findings: list[Finding] = []
        self._looking = Findings(attributes)
        self._sources = sources  # file and line by phase

    def resumed(self, attributes: Mapping[str, Any]) -> None:
        """From here on another process goes on: nothing is compared with what was before."""
        self._looking = Findings(attributes)

    def add(self, steps: Sequence[Step]) -> list[Finding]:
        """The next window, and what is found in it."""
        for step in steps:
            self.totals.add(step, self._looking.device)
        found = self._looking.add(steps)
        self.findings += found
        return found

    def verdict(self) -> Verdict | None:
        """None where no step was recorded."""
        totals = self.totals
        if not totals.steps or not totals.seconds:
            return None
        causes = sorted((each for each in self._causes() if each.share >= SHARE), key=lambda each: -each.share)
        slow = next((each for each in causes if each.name == "slowing down"), None)
        if slow and causes[0].phase == slow.phase and 2 * slow.share >= causes[0].share:
            causes.remove(slow)  # it says more than that its phase takes long
            causes.insert(0, slow)
        first, *others = causes or [self._compute()]
        where = self._sources.get(first.phase, "")
        return Verdict(first, others, totals.seconds, totals.steps, where, self._notes())

    def _causes(self) -> Iterator[Cause]:
        totals = self.totals
        for name, phase, seconds in (
            ("data-bound", DATA, totals.phases.get(DATA, 0.0)),
            ("validation-heavy", "validation", totals.beside.get("validation", 0.0)),
            ("checkpoint-heavy", "checkpoint", totals.beside.get("checkpoint", 0.0)),
        ):
            yield self._cause(name, seconds, f"{phase} took {seconds:.3g} s", phase)
        yield self._outside()
        yield self._cause("gc-heavy", totals.collected, f"garbage collections took {totals.collected:.3g} s")
        yield self._cause("machine busy", totals.busy, f"for {totals.busy:.3g} s the phases waited for a processor")
        slowing = self._looking.slowing
        if slow := slowing.found:
            said = f"from step {slow.step} on by {slow.by:.0%}, most of it in {slow.phase}"
            yield self._cause("slowing down", slowing.extra, said, slow.phase)

    def _cause(self, name: str, seconds: float, evidence: str, phase: str = "") -> Cause:
        return Cause(name, min(seconds / self.totals.seconds, 1.0), evidence, phase)

    def _outside(self) -> Cause:
        """Time outside all phases: of no phase, or of one that has no span."""
        missing = [name for name in PHASES if not any(name in phase for phase in self.totals.phases)]
        seconds = self.totals.unaccounted
        if missing:
            return self._cause("not measured", seconds, f"no span of {', '.join(missing)}, and {seconds:.3g} s in none")
        return self._cause("unaccounted", seconds, f"{seconds:.3g} s lay outside all spans")

    def _compute(self) -> Cause:
        phases = self.totals.phases
        name, most = max(phases.items(), key=lambda each: each[1], default=("", 0.0))
        evidence = f"nothing else took a tenth of the time; most is in {name}, {most:.3g} s" if name else "no phases"
        return self._cause(COMPUTE, sum(phases.values()) - phases.get(DATA, 0.0), evidence, name)

    def _notes(self) -> list[str]:
        if self._looking.measured:
            return []
        return ["stalls and slow-downs not measured: several threads that wait actively; set OMP_WAIT_POLICY=passive"]
