"""Record a run's spans: OTLP JSON lines beside the run, and an OTLP endpoint where one is named.

Layout, made for 100,000 steps and for runs that die:

- `train run start` and `train run end` are traces of one span each. Start ends at once, so that it is on disk before
  the first step; end carries how many steps, windows and spans a complete trace has.
- Between them lies one trace per window of steps, since viewers get slow beyond a few thousand spans. The window's
  root links to the start and to the window before. It is written when it ends, so a run that dies inside a window
  leaves that window's steps without their root; the resource carries `train.run.id` for them.
- Spans are written when the outermost one inside the window ends: one line per step, on disk before the next step
  starts. Times are nanoseconds since the epoch, as OTLP has them.

Names follow OpenTelemetry's semantic conventions 1.44. Recorded are names, numbers and times: no environment, no
exception text, no path but the source file inside its package.
"""

import secrets
import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, cast

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, Tracer, set_span_in_context

from andon.tracing.conventions import Attribute, code_attributes, resource_attributes
from andon.tracing.lines import LineFile, trim_torn_line
from andon.tracing.send import Sender, endpoint

SCHEMA = Schemas.V1_44_0.value
STEP = "train.step"


class OwnRandom(IdGenerator):
    """Ids from the system: the SDK draws them from `random`, whose seeded state belongs to the training."""

    def generate_span_id(self) -> int:
        """64 bits, not all zero."""
        return secrets.randbits(64) or 1

    def generate_trace_id(self) -> int:
        """128 bits, not all zero."""
        return secrets.randbits(128) or 1


class LinePerStep(SpanProcessor):
    """Hands ended spans to the exporter together, once the outermost span below a root has ended."""

    def __init__(self, file: LineFile) -> None:
        self.file = file
        self.exporter = FileSpanExporter(stream=cast("IO[str]", file))
        self.window: SpanContext | None = None
        self.ended: list[ReadableSpan] = []
        self.written = 0
        self.lost = 0

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span; write all that are kept where it is a root or directly below the window."""
        self.ended.append(span)
        if span.parent is None or span.parent == self.window:
            self.exporter.export(self.ended)
            self.written += 0 if self.file.problem else len(self.ended)
            self.lost += len(self.ended) if self.file.problem else 0
            self.ended = []

    def shutdown(self) -> None:
        """Close the file."""
        self.exporter.shutdown()
        self.file.close()


class Trace:
    """One run's recording. `span` is the seam a training loop calls, from one thread."""

    def __init__(
        self, tracer: Tracer, lines: LinePerStep, run_id: str, attributes: Mapping[str, Attribute], window_steps: int
    ) -> None:
        self.trace_ids: list[str] = []
        self.notes: list[str] = []
        self._tracer = tracer
        self._lines = lines
        self._run = {"train.run.id": run_id}
        self._window_steps = window_steps
        self._window: Span | None = None
        self._parent: Span | None = None
        self._windows = 0
        self._steps = 0
        self._steps_here = 0
        self._links: list[Link] = []
        start = self._root("train run start", attributes)
        start.end()
        self._start = Link(start.get_span_context())
        self._links = [self._start]

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:
        """A span below the innermost open one; attributes without a dot get the prefix `train.`."""
        named = {key if "." in key else f"train.{key}": value for key, value in attributes.items()}
        caller = sys._getframe(1)  # noqa: SLF001 - a documented function of CPython, despite its name
        return self._span(name, named | code_attributes(caller))

    @contextmanager
    def _span(self, name: str, attributes: Mapping[str, Attribute]) -> Generator[None, None, None]:
        outer = self._parent
        parent = self._open_window(name) if outer is None else outer
        span = self._tracer.start_span(name, context=set_span_in_context(parent, Context()), attributes=attributes)
        self._parent = span
        try:
            yield
        except BaseException as error:
            mark_failed(span, error)
            raise
        finally:
            self._parent = outer
            self._steps += name == STEP
            self._steps_here += name == STEP
            span.end()

    def _root(self, name: str, attributes: Mapping[str, Attribute]) -> Span:
        attributes = {**self._run, **attributes}
        root = self._tracer.start_span(name, context=Context(), attributes=attributes, links=self._links)
        self.trace_ids.append(f"{root.get_span_context().trace_id:032x}")
        return root

    def _open_window(self, name: str) -> Span:
        if self._window and name == STEP and self._steps_here >= self._window_steps:
            self._close_window()
        if self._window is None:
            self._window = self._root("train window", {"train.window.index": self._windows})
            self._lines.window = self._window.get_span_context()
            self._links = [self._start, Link(self._lines.window)]
            self._windows += 1
            self._steps_here = 0
        return self._window

    def _close_window(self) -> None:
        if self._window:
            self._window.set_attribute("train.window.steps", self._steps_here)
            self._window.end()
            self._window = None

    def finish(self, error: BaseException | None) -> None:
        """End the last window and write what a complete trace of this session holds."""
        if self._window and error:
            mark_failed(self._window, error)
        self._close_window()
        counts = {"steps": self._steps, "windows": self._windows, "spans": self._lines.written + self._lines.lost + 1}
        expected = {f"train.run.expected.{name}": count for name, count in counts.items()}
        end = self._root("train run end", expected)
        if error:
            mark_failed(end, error)
        end.end()
        if self._lines.lost:
            self.notes.append(f"{self._lines.lost} spans could not be written to the trace: {self._lines.file.problem}")


@contextmanager
def open_trace(
    path: Path,
    run_id: str,
    attributes: Mapping[str, Attribute],
    *,
    otlp: str | None = None,
    window_steps: int = 100,
    service_name: str = "andon",
    service_version: str = "",
) -> Generator[Trace, None, None]:
    """Record a run into `path` (created, or appended to when the run is resumed).

    `attributes` go on the `train run start` span under the names given. With `otlp` (an OTLP/HTTP endpoint such as
    `http://localhost:4318`) the lines are also delivered while the run goes on, by a thread that never holds it up;
    after the block, `notes` on the yielded trace says what was not delivered. Leaving the block takes at most two
    seconds longer for that. The global tracer provider is neither read nor set.

    Raises TraceError where `otlp` is not an http(s) address, and OSError where `path` cannot be written.
    """
    if otlp:
        endpoint(otlp)
    torn = trim_torn_line(path)
    lines = LinePerStep(LineFile(path))
    resource = Resource(resource_attributes(run_id, service_name, service_version), SCHEMA)
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=OwnRandom())
    provider.add_span_processor(lines)
    trace = Trace(provider.get_tracer("andon.tracing", schema_url=SCHEMA), lines, run_id, attributes, window_steps)
    sender = Sender(path, otlp) if otlp else None
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
        provider.shutdown()
        if sender:
            trace.notes.extend(sender.close())


def mark_failed(span: Span, error: BaseException) -> None:
    """Status and type of what ended the span; its text and traceback may hold anything and stay out."""
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR))
