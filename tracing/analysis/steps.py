"""A run's steps as numbers, out of its spans: while it is recorded, or read back."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from andon.tracing import read

STEP, BETWEEN, COLLECTION, PROFILE = "train.step", "between steps", "gc", "profile"
START = "train run start"


class Ended(Protocol):
    """A span that has ended, as the recorder holds it or as it is read back. Times are nanoseconds."""

    @property
    def name(self) -> str:
        """Such as `forward`."""
        ...

    @property
    def span_id(self) -> str:
        """Its own."""
        ...

    @property
    def parent_id(self) -> str:
        """Of the span above."""
        ...

    @property
    def start(self) -> int:
        """When it began."""
        ...

    @property
    def end(self) -> int:
        """When it ended."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What it says."""
        ...

    @property
    def source(self) -> str:
        """File and line of its `with`, or empty."""
        ...


class Seconds(NamedTuple):
    """Of one phase: by the clock, and of the process on processors."""

    wall: float
    cpu: float


class Step(NamedTuple):
    """One step, and what came after it until the next began. NaN stands for what was not recorded."""

    number: int
    end: int  # nanoseconds since the epoch
    seconds: Seconds
    phases: dict[str, Seconds]
    loss: float = math.nan
    norm: float = math.nan
    peak_bytes: int = 0
    collected: float = 0.0  # seconds of garbage collections, with those after it
    measuring: bool = False  # the run measured itself: outside of all statistics
    after: float = 0.0  # seconds
    beside: Mapping[str, float] = {}  # seconds by name of what happened after it, such as validation


class Builder:
    """Puts steps together out of spans in the order in which these end."""

    def __init__(self) -> None:
        self.steps: list[Step] = []  # that have not been taken
        self.sources: dict[str, str] = {}  # file and line by phase
        self._below: dict[str, list[Ended]] = {}  # by the id of the span above, which ends later

    def add(self, spans: Iterable[Ended]) -> None:
        """Spans that have ended."""
        for span in spans:
            if span.name == STEP:
                self.steps.append(self._step(span))
                self._below.clear()
            elif span.name == BETWEEN:
                self._add_after(span)
            elif span.name != COLLECTION:
                self._below.setdefault(span.parent_id, []).append(span)

    def take(self) -> list[Step]:
        """The steps since the last call."""
        taken, self.steps = self.steps, []
        return taken

    def _phases(self, span_id: str) -> dict[str, Seconds]:
        phases: dict[str, Seconds] = {}
        for span in self._below.pop(span_id, ()):
            name, wall, cpu = (
                span.name,
                (span.end - span.start) / 1e9,
                number(span.attributes.get("train.cpu_seconds"), 0.0),
            )
            if name in phases:
                wall, cpu = wall + phases[name].wall, cpu + phases[name].cpu
            elif name not in self.sources:
                self.sources[name] = span.source
            phases[name] = Seconds(wall, cpu)
        return phases

    def _step(self, span: Ended) -> Step:
        said = span.attributes
        return Step(
            whole(said.get("train.step")),
            span.end,
            Seconds((span.end - span.start) / 1e9, number(said.get("train.cpu_seconds"), 0.0)),
            self._phases(span.span_id),
            number(said.get("train.loss")),
            number(said.get("train.grad_norm")),
            whole(said.get("train.peak_bytes")),
            number(said.get("train.gc_seconds"), 0.0),
            any(said.get(f"train.{mark}") is True for mark in ("measuring", "profiled")),
        )

    def _add_after(self, span: Ended) -> None:
        beside = {name: seconds.wall for name, seconds in self._phases(span.span_id).items()}
        profiling = beside.pop(PROFILE, 0.0)
        if self.steps:
            last = self.steps[-1]
            collected = last.collected
            if not profiling:  # which collects, too
                collected += number(span.attributes.get("train.gc_seconds"), 0.0)
            self.steps[-1] = last._replace(
                after=(span.end - span.start) / 1e9 - profiling, beside=beside, collected=collected
            )


def number(value: Any, otherwise: float = math.nan) -> float:
    """A recorded number, or what stands for none: a file may say anything."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise


def whole(value: Any) -> int:
    """A recorded integer, or 0."""
    return value if isinstance(value, int) else 0


class Window(NamedTuple):
    """Steps that were recorded together."""

    start: dict[str, Any] | None  # what the run's first span says, on the first window since then
    steps: list[Step]


def read_windows(path: Path, sources: dict[str, str]) -> Iterator[Window]:
    """A trace's windows in turn, in constant memory; file and line of each phase come into `sources`.

    The steps of a window are of one trace; its root may be missing. Raises TraceError as `read_spans` does.
    """
    builder, start, trace_id = Builder(), None, ""
    builder.sources = sources
    for _, spans in read.lines_of_spans(path):
        own = next((span.trace_id for span in spans if span.name == STEP), trace_id)
        if own != trace_id and builder.steps:
            builder.add(span for span in spans if span.trace_id == trace_id)
            yield Window(start, builder.take())
            start = None
            builder.add(span for span in spans if span.trace_id != trace_id)
        else:
            builder.add(spans)
        trace_id = own
        start = next((span.attributes for span in spans if span.name == START), start)
    if builder.steps or start is not None:
        yield Window(start, builder.take())
