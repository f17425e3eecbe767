"""Record a run's spans: OTLP JSON lines beside the run, and an OTLP endpoint where one is named.

Layout, made for 100,000 steps and for runs that die:

- `train run start` and `train run end` are traces of one span each. Start ends at once, so that it is on disk before
  the first step; end carries how many steps, windows and spans a complete trace has, and links to all windows.
- Between them lies one trace per window of steps, since viewers get slow beyond a few thousand spans. Its root has no
  link: Jaeger shows no critical path of a trace whose root has one. It is written when it ends, so a run that dies
  inside a window leaves that window's steps without their root; the resource carries `train.run.id` for them.
- A step is written when it ends: one line, one write, on disk before the next begins. It holds the time since the step
  before, too, as the span `between steps`, with what happened in it: logging, validation, a checkpoint. Of these, what
  takes long is written at once. Times are nanoseconds since the epoch, as OTLP has them.
- Each thread has spans of its own. One that a second thread opens lies below the window, beside the steps.

Nothing here needs OpenTelemetry's SDK. Names follow its semantic conventions 1.44. Recorded are names, numbers and
times: no environment, no exception text, no path but the source file inside its package.
"""

import gc
import json
import os
import re
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from andon.tracing import encode
from andon.tracing.analysis.verdict import Verdict
from andon.tracing.clock import Clock, random_ids, usage
from andon.tracing.conventions import Attribute, resource_attributes
from andon.tracing.endpoint import Endpoint, endpoint
from andon.tracing.lines import LineFile, trim_torn_line
from andon.tracing.send import Sender
from andon.tracing.spans import GAP_NS, LONG_COLLECTION_NS, STEP, Between, Moment, OpenSpan, Parent, Thread, prefixed
from andon.tracing.window import Looking, Window

WINDOW_SPANS = 2_000
SHORT_NS = 10_000_000  # what ends between two steps sooner waits for the next step's line
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class Trace:
    """One run's recording. `span` is what a training loop calls, from any thread."""

    def __init__(
        self,
        file: LineFile,
        resource: Mapping[str, Attribute],
        run_id: str,
        attributes: Mapping[str, Attribute],
        window_steps: int,
    ) -> None:
        self.trace_ids: list[str] = []
        self.notes: list[str] = []
        self.delivered = 0  # spans that the endpoint has accepted, once the trace is closed
        self.clock = Clock()
        self.thread = Thread()
        self.draw = random_ids(8)
        self.last_step = ("", "")  # trace and span
        self._draw_trace = random_ids(16)
        self._file = file
        self._before, self._after = encode.frame(resource, "andon.tracing")
        self._run: dict[str, Attribute] = {"train.run.id": run_id}
        self._window_steps = window_steps
        self._window: Window | None = None
        self._windows: list[tuple[str, str]] = []
        self._unended: list[Window] = []  # that have been looked through, and had something open
        self._largest = 0  # spans of one line
        self._steps = self._written = self._lost = 0
        self._lock = threading.RLock()
        self._looking = Looking(attributes, self._looked)
        self.findings = self._looking.findings
        self.verdict: Verdict | None = None  # once the trace is closed
        self.closed = False
        self._single("train run start", {**self._run, **attributes}, links_of_environment())
        gc.callbacks.append(self._on_collection)

    def span(self, name: str, **attributes: Attribute) -> OpenSpan:
        """A span below this thread's innermost open one; attributes without a dot get the prefix `train.`."""
        return OpenSpan(self, name, prefixed(attributes))

    def moment(self) -> Moment:
        """Now, as where a span may begin or end later."""
        return Moment(self.clock.now(), time.process_time_ns(), usage())

    def finding(self, kind: str, **numbers: Attribute) -> None:
        """Note what was found just now: an event, and an attribute by which its window is found. Numbers, never text.

        The event is of this thread's innermost open span, or of the window. Kinds come worst last: a later one stays.
        """
        with self._lock:
            window = self._open_window()
            window.attributes["train.finding"] = kind
            inside = self.thread.open[-1] if self.thread.open else self.thread.between or window
            inside.events.append(encode.event(kind, self.clock.now(), prefixed(numbers)))

    def place(self, above: "Place | None" = None) -> "Place":
        """Where a span of another recorder belongs that begins now in this thread: where `above` does, if given."""
        with self._lock:
            window = above.window if above else self._open_window()
            window.open += 1  # the window's root waits for its end
            if above:
                return above
            inside = self.thread.open[-1] if self.thread.open else self.thread.between or window
            return Place(window, window.trace_id, inside.span_id)

    def adopt(self, place: "Place", span: Mapping[str, object]) -> None:
        """Write a span of another recorder, in OTLP's JSON: with what its thread has open, or at once."""
        with self._lock:
            place.window.open -= 1
            self.thread.ended.append(json.dumps(span, separators=(",", ":")))
            if not self.thread.open:
                self._flush(place.window)
            if place.window.closed and not place.window.open:
                self._write_root(place.window)

    def begin(self, span: OpenSpan) -> Parent:
        """The parent of a thread's outermost span: the time between two steps, or the window."""
        with self._lock:
            between = self.thread.between
            if span.name == STEP:
                if between:
                    self._end_between(between, span.at)
                full = self._window and (
                    len(self._window.steps) >= self._window_steps
                    or self._window.spans + self._largest > WINDOW_SPANS - 1
                )
                if full:
                    self._close_window()
                between = None
            window = self._open_window(span.at)
            window.open += 1
            span.window, span.trace_id = window, window.trace_id
            if between:
                return between
            return Below(window.span_id, max(self.thread.last, window.start - GAP_NS))

    def end(self, span: OpenSpan) -> None:
        """Write a step with what waits, and anything else that took long."""
        thread = self.thread
        with self._lock:
            window = span.window
            window.open -= 1
            if not isinstance(span.parent, Between):
                thread.last = span.end
            if span.name == STEP:
                self._count_step(span, window)
            if not isinstance(span.parent, Between) or span.end - span.start >= SHORT_NS:
                self._flush(window)
            if window.closed and not window.open:
                self._write_root(window)
            elif span.name == STEP:
                cpu = span.at.cpu if span.at else time.process_time_ns()
                thread.between, thread.collected = Between(self.draw(), span.end + GAP_NS, cpu), 0
        if span.name == STEP:
            self._looking.settle()  # a run that is killed from here on has the root of the window before

    def error(self, span: OpenSpan, kind: str) -> None:
        """What raised is marked in its window, too."""
        span.window.attributes["error.type"] = kind

    def _count_step(self, span: OpenSpan, window: Window) -> None:
        number = span.attributes.get("train.step")
        window.steps.append((span.end - span.start, number if isinstance(number, int) else None))
        self._steps += 1
        self.last_step = (span.trace_id, span.span_id)

    def _end_between(self, between: Between, at: Moment | None = None) -> None:
        """The time between two steps ends now, or as of an earlier moment."""
        thread, window = self.thread, self._window
        thread.between = None
        if window is None:
            return
        now, cpu = (at.time, at.cpu) if at else (self.clock.now(), time.process_time_ns())
        thread.last = max(now - GAP_NS, between.start, between.last)
        between.finish(thread.last, cpu, thread.collected, window.trace_id, window.span_id)
        thread.ended.append(between)

    def _flush(self, window: Window | None) -> None:
        thread = self.thread
        if thread.ended:
            if window:
                window.spans += len(thread.ended)
                window.last = max(window.last, thread.last)
                window.ended.append(thread.ended)
            self._largest = max(self._largest, len(thread.ended))
            ended, thread.ended = thread.ended, []
            self._write([each if isinstance(each, str) else each.encoded() for each in ended])

    def _write(self, spans: list[str]) -> None:
        self._file.write((self._before + ",".join(spans) + self._after).encode())
        self._written += 0 if self._file.problem else len(spans)
        self._lost += len(spans) if self._file.problem else 0

    def _single(
        self,
        name: str,
        attributes: Mapping[str, Attribute],
        links: list[str],
        error: str = "",
        said: Mapping[str, Attribute] | None = None,
    ) -> None:
        """A trace of one span that ends at once. The verdict is what is `said`."""
        ids, now = (self._draw_trace(), self.draw(), ""), self.clock.now()
        self.trace_ids.append(ids[0])
        kinds = {"error.type": error} if error else {}
        events = [encode.event("train.verdict", now, prefixed(dict(said)))] if said else []
        events += [encode.event("exception", now, {"exception.type": error})] if error else []
        values = encode.attributes({**attributes, **kinds})
        when = (now, self.clock.now())
        self._write([encode.span(ids, encode.named(name), when, values, events, links, failed=bool(error))])

    def _open_window(self, at: Moment | None = None) -> Window:
        if self._window is None:
            self.clock.pair()
            start = at.time if at else self.clock.now()
            self._window = Window(self._draw_trace(), self.draw(), len(self._windows), start)
            self._windows.append((self._window.trace_id, self._window.span_id))
            self.trace_ids.append(self._window.trace_id)
        return self._window

    def _close_window(self) -> None:
        """End the window; where another thread has a span open in it, its root waits for that."""
        if window := self._window:
            self._flush(window)
            self._window = None
            self._looking.add(window)

    def _looked(self, window: Window) -> None:
        """A closed window has been looked through: its root waits for nothing else but what is open in it."""
        with self._lock:
            window.closed = True
            if window.open:
                self._unended.append(window)
            else:
                self._write_root(window)

    def _write_root(self, window: Window) -> None:
        ids = (window.trace_id, window.span_id, "")
        when = (window.start, max(self.clock.now(), window.last))
        values = {**self._run, **window.summary()}
        failed = "error.type" in values
        name = encode.named("train window")
        self._write([encode.span(ids, name, when, encode.attributes(values), window.events, failed=failed)])

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        """Note a garbage collection of this thread. It may come in the midst of anything: no lock, no span."""
        del info
        thread, now = self.thread, self.clock.now()
        if phase == "start":
            thread.collecting = now
        elif thread.collecting:
            thread.collected += now - thread.collecting
            if now - thread.collecting >= LONG_COLLECTION_NS and (thread.open or thread.between):
                thread.collections.append((thread.collecting, now))

    def finish(self, error: BaseException | None) -> None:
        """End the last window and write what a complete trace of this session holds."""
        gc.callbacks.remove(self._on_collection)
        kind = type(error).__qualname__ if error else ""
        with self._lock:
            if self.thread.between:
                self._end_between(self.thread.between)
            if self._window and kind:
                self._window.attributes["error.type"] = kind
            self._close_window()
        self.verdict = self._looking.close()
        with self._lock:
            for window in [each for each in self._unended if each.open]:  # in a thread that goes on
                self._write_root(window)
            self._write_end(kind)
            self._file.close()
            self.closed = True
        if self._looking.problem:
            self.notes.append(f"findings are not complete: {self._looking.problem!r}")
        if self._lost:
            self.notes.append(f"{self._lost} spans could not be written to the trace: {self._file.problem}")

    def _write_end(self, kind: str) -> None:
        """What a complete trace of this session holds, and where its time went."""
        total = self._written + self._lost + 1
        counts = {"steps": self._steps, "windows": len(self._windows), "spans": total}
        expected = {f"train.run.expected.{name}": count for name, count in counts.items()}
        said = self.verdict.attributes() if self.verdict else {}
        links = [encode.link(*ids) for ids in self._windows]
        self._single("train run end", {**self._run, **expected}, links, kind, said)


class Place(NamedTuple):
    """A position in a run: the window, and the ids of its trace and of the span above."""

    window: Window
    trace_id: str
    span_id: str


class Below:
    """A window as the parent of one thread's spans."""

    def __init__(self, span_id: str, last: int) -> None:
        self.span_id, self.last = span_id, last


def links_of_environment() -> list[str]:
    """A link to the span that started this process, where TRACEPARENT (W3C Trace Context) names one."""
    found = TRACEPARENT.fullmatch(os.environ.get("TRACEPARENT", ""))
    if not found or not int(found[1], 16) or not int(found[2], 16):
        return []
    return [encode.link(found[1], found[2], encode.FLAGS | 0x200)]  # SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


def rank_of_environment() -> int | None:
    """The rank of this process among several (torchrun), or None where it is the only one."""
    world, rank = os.environ.get("WORLD_SIZE", ""), os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and world.isdecimal() and int(world) > 1 else None


@contextmanager
def open_trace(
    path: Path,
    run_id: str,
    attributes: Mapping[str, Attribute],
    *,
    otlp: str | Endpoint | None = None,
    window_steps: int = 100,
    service_name: str = "andon",
    service_version: str = "",
) -> Generator[Trace, None, None]:
    """Record a run into `path` (created, or appended to when the run is resumed).

    `attributes` go on the `train run start` span under the names given. With `otlp` (an OTLP/HTTP endpoint such as
    `http://localhost:4318`) the lines are also delivered while the run goes on, by a thread that never holds it up;
    after the block, `notes` on the yielded trace says what was not delivered. Leaving the block takes at most two
    seconds longer for that. A program's own OpenTelemetry set-up is neither read nor set. Of several processes under
    torchrun each writes a file of its own (`trace.rank1.jsonl`).

    Raises TraceError where `otlp` is not an http(s) address or a variable of OpenTelemetry's cannot be used, and
    OSError where `path` cannot be written.
    """
    to = endpoint(otlp) if isinstance(otlp, str) else otlp
    rank = rank_of_environment()
    path = path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path
    torn = trim_torn_line(path)
    resource = resource_attributes(run_id, service_name, service_version, rank)
    trace = Trace(LineFile(path), resource, run_id, attributes, window_steps)
    sender = Sender(path, to) if to else None
    if torn:
        trace.notes.append(f"{path.name} ended in a torn line of {torn} bytes, which was cut off")
    try:
        yield trace
    except BaseException as error:
        trace.finish(error)
        raise
    else:
        trace.finish(None)
    finally:
        if sender:
            trace.notes.extend(sender.close())
            trace.delivered = sender.delivered
