"""One open span, and what a thread has open: the part of the recorder that a training loop runs through each step."""

import json
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import NamedTuple, Protocol, Self

from andon.tracing import encode
from andon.tracing.clock import Clock, Usage, usage
from andon.tracing.conventions import Attribute, caller, code_attributes

STEP = "train.step"
GAP_NS = 2_000  # between siblings: Jaeger cuts to microseconds, and its critical path skips siblings that touch
FRESH_NS = 20_000  # for which a reading of the processor's time holds: reading it is a call into the kernel
PLACES: dict[tuple[int, int], tuple[str, CodeType]] = {}  # each with its code, so that no other gets its identity
LONG_COLLECTION_NS = 1_000_000  # from which on a garbage collection is a span of its own


class Moment(NamedTuple):
    """When something was, and what the process had used by then: spans may begin and end there later."""

    time: int
    used: Usage

    @property
    def cpu(self) -> int:
        """Nanoseconds on processors."""
        return round(self.used.cpu_seconds * 1e9)


class Thread(threading.local):
    """A thread's open spans, innermost last, and what has ended and is not yet written."""

    def __init__(self) -> None:
        self.open: list[OpenSpan] = []
        self.between: Between | None = None
        self.ended: list[OpenSpan | Between | str] = []
        self.read = self.cpu = 0  # when the processor's time was read last, and what it was
        self.last = 0  # when the last span directly below the window ended
        self.collecting = 0  # when the garbage collection that goes on began
        self.collected = 0  # nanoseconds since the step began
        self.collections: list[tuple[int, int]] = []  # long ones that are not yet spans


class Parent(Protocol):
    """What a span is below of: another one, the time between two steps, or a window."""

    span_id: str
    last: int


class Recorder(Protocol):
    """Where a span comes from and goes to."""

    clock: Clock
    thread: Thread
    draw: Callable[[], str]

    def begin(self, span: "OpenSpan") -> Parent:
        """The parent of a span that has none in its thread."""
        ...

    def end(self, span: "OpenSpan") -> None:
        """Write what has ended with a span that has no parent in its thread."""
        ...

    def error(self, span: "OpenSpan", kind: str) -> None:
        """Hear that a span was left by an exception."""
        ...


class Between:
    """The time between two steps, with what happens in it."""

    name = "between steps"
    source = ""

    def __init__(self, span_id: str, start: int, cpu: int) -> None:
        self.span_id, self.start, self.last = span_id, start, start - GAP_NS
        self.end, self.trace_id, self.parent_id = start, "", ""
        self.events: list[str] = []
        self.attributes: dict[str, Attribute] = {}
        self.cpu = cpu

    def finish(self, end: int, cpu: int, collected: int, trace_id: str, parent_id: str) -> None:
        """It ends, in a window; what it took of the machine, given the nanoseconds of garbage collections in it."""
        self.end, self.trace_id, self.parent_id = end, trace_id, parent_id
        self.attributes["train.cpu_seconds"] = (cpu - self.cpu) / 1e9
        if collected:
            self.attributes["train.gc_seconds"] = collected / 1e9

    def encoded(self) -> str:
        """The span in OTLP's JSON."""
        ids, when = (self.trace_id, self.span_id, self.parent_id), (self.start, self.end)
        return encode.span(ids, encode.named(self.name), when, encode.attributes(self.attributes), self.events)


class OpenSpan:
    """A span as a context manager. `trace_id` and `span_id` are known while it is open."""

    __slots__ = (
        "at",
        "attributes",
        "code",
        "cpu",
        "end",
        "events",
        "failed",
        "last",
        "name",
        "parent",
        "recorder",
        "span_id",
        "start",
        "trace_id",
        "used",
        "window",
    )

    def __init__(self, recorder: Recorder, name: str, attributes: dict[str, Attribute]) -> None:
        self.recorder, self.name, self.attributes = recorder, name, attributes
        self.events: list[str] = []
        self.failed = False
        self.used: Usage | None = None

    def __enter__(self) -> Self:
        """Begin, below the innermost open span of this thread."""
        return self.begin(encoded_code(caller(sys._getframe(1))))  # noqa: SLF001 - a documented function of CPython

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End; an exception passes through and leaves its type, never its text."""
        self.finish("" if kind is None else kind.__qualname__)

    def begin(self, code: str, at: Moment | None = None) -> Self:
        """Begin below the innermost open span of this thread: now, or as of an earlier moment."""
        recorder = self.recorder
        thread = recorder.thread
        self.code, self.at = code, at
        self.span_id = recorder.draw()
        if self.name == STEP:
            self.used = at.used if at else measured(recorder.clock, thread)
        if thread.open:
            outer = thread.open[-1]
            parent: Parent = outer
            self.trace_id, self.window = outer.trace_id, outer.window
        else:
            parent = recorder.begin(self)
        if self.used:
            thread.collected = 0
        self.parent = parent
        if thread.collections:
            add_collections(recorder, self.trace_id, parent, at.time if at else recorder.clock.now())
        thread.open.append(self)
        now, self.cpu = (at.time, at.cpu) if at else reading(recorder.clock, thread)
        self.start = max(now, parent.last + GAP_NS)
        self.last = self.start - GAP_NS  # a first child may begin at once
        return self

    def finish(self, failure: str = "", at: Moment | None = None) -> None:
        """End, now or as of an earlier moment; `failure` is an exception's type."""
        recorder = self.recorder
        thread = recorder.thread
        self.at = at
        if self.used:
            self._add_usage(thread, self.used, at.used if at else measured(recorder.clock, thread))
        now, cpu = (at.time, at.cpu) if at else reading(recorder.clock, thread)
        self.end = end = max(now, self.start, self.last)
        if thread.collections:
            add_collections(recorder, self.trace_id, self, end)
        if thread.open[-1] is self:
            thread.open.pop()
        else:
            thread.open.remove(self)
        self.cpu = cpu - self.cpu
        if failure:
            self._fail(failure)
        self.parent.last = end
        thread.ended.append(self)
        if not thread.open:
            recorder.end(self)

    @property
    def parent_id(self) -> str:
        """Of the span above."""
        return self.parent.span_id

    @property
    def source(self) -> str:
        """File and line of its `with`."""
        said = {each["key"]: each["value"] for each in json.loads(f"[{self.code.removeprefix(',')}]")}
        return f"{said['code.file.path']['stringValue']}:{said['code.line.number']['intValue']}"

    def encoded(self) -> str:
        """The span in OTLP's JSON. All of a step's are encoded together, when the processor has the code at hand."""
        ids, when, name = (self.trace_id, self.span_id, self.parent.span_id), (self.start, self.end), self.name
        plain = not (self.attributes or self.events or self.failed)
        if not self.used:
            self.attributes["train.cpu_seconds"] = spent = self.cpu / 1e9
            if plain:
                return encode.phase(ids, encode.named(name), when, spent, self.code)
        return encode.span(
            ids,
            encode.named(name),
            when,
            encode.attributes(self.attributes) + self.code,
            self.events,
            failed=self.failed,
        )

    def set_attributes(self, **attributes: Attribute) -> None:
        """Add attributes; those without a dot get the prefix `train.`."""
        self.attributes.update(prefixed(attributes))

    def add_event(self, name: str, **attributes: Attribute) -> None:
        """Note that something happened now."""
        self.events.append(encode.event(name, self.recorder.clock.now(), prefixed(attributes)))

    def _add_usage(self, thread: Thread, before: Usage, now: Usage) -> None:
        """What the step took of the machine; a peak of memory that the caller knows better stays."""
        self.attributes["train.cpu_seconds"] = now.cpu_seconds - before.cpu_seconds
        self.attributes["train.major_faults"] = now.major_faults - before.major_faults
        self.attributes.setdefault("train.peak_bytes", now.peak_bytes)
        if thread.collected:
            self.attributes["train.gc_seconds"] = thread.collected / 1e9

    def _fail(self, kind: str) -> None:
        self.failed = True
        self.attributes["error.type"] = kind
        self.events.append(encode.event("exception", self.end, {"exception.type": kind}))
        self.recorder.error(self, kind)


def reading(clock: Clock, thread: Thread) -> tuple[int, int]:
    """The time, and the process's on processors, which is read again only where the last reading is not fresh."""
    now = time.perf_counter_ns() + clock.offset
    if now - thread.read > FRESH_NS:
        thread.read, thread.cpu = now, time.process_time_ns()
    return now, thread.cpu


def measured(clock: Clock, thread: Thread) -> Usage:
    """What the process has used, which is a reading of its time, too."""
    used = usage()
    thread.read, thread.cpu = clock.now(), round(used.cpu_seconds * 1e9)
    return used


def encoded_code(frame: FrameType) -> str:
    """Where a span was opened, as what follows its other attributes.

    Kept under the code's identity, as its hash goes over all of its instructions each time, and under the instruction:
    to find its line is a walk through a table.
    """
    code, at = frame.f_code, frame.f_lasti
    known = PLACES.get((id(code), at))
    if known is None:
        module = frame.f_globals.get("__name__", "")
        known = PLACES[id(code), at] = ("," + encode.attributes(code_attributes(code, module, frame.f_lineno)), code)
    return known[0]


def prefixed(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    """Attributes under their full names."""
    return attributes and {key if "." in key else f"train.{key}": value for key, value in attributes.items()}


def add_collections(recorder: Recorder, trace_id: str, parent: Parent, until: int) -> None:
    """Long garbage collections as spans below the one in which they happened."""
    thread = recorder.thread
    found, thread.collections = thread.collections, []
    for begun, ended in found:
        start, end = max(begun, parent.last + GAP_NS), min(ended, until)
        if start < end:
            parent.last = end
            ids = (trace_id, recorder.draw(), parent.span_id)
            thread.ended.append(encode.span(ids, encode.named("gc"), (start, end), ""))
