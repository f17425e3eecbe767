"""A program's own OpenTelemetry spans in the run's file, below the step in which they happened.

    provider.add_span_processor(StepSpans(trace))

Needs the extra `trace`. A span without a parent of its own becomes a child of what this thread has open; those below it
follow, all in the window's trace. Names, times, attributes, events and links stay as the program has given them.
"""

import threading
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from andon.tracing.record import Place, Trace

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span


class StepSpans(SpanProcessor):
    """Copies each span that ends into a trace that is being recorded. Where it is sent besides is not its concern."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._places: dict[int, Place] = {}  # of spans that are open, by their own id
        self._lock = threading.Lock()

    def on_start(self, span: "Span", parent_context: "Context | None" = None) -> None:
        """Remember where it belongs: in the trace of its parent, or below what is open here. After the run nowhere."""
        del parent_context
        if self.trace.closed:
            return
        context = span.get_span_context()
        with self._lock:
            above = self._places.get(span.parent.span_id) if span.parent else None
            self._places[context.span_id] = self.trace.place(above)

    def on_end(self, span: ReadableSpan) -> None:
        """Write it, under the ids of its place in the run, if it began there."""
        context = span.get_span_context()
        assert context
        with self._lock:
            place = self._places.pop(context.span_id, None)
            if place is None:
                return
            inside = span.parent and span.parent.span_id in self._places
        content = encode_spans([span]).to_dict()["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        above = content["parentSpanId"] if inside else place.span_id
        self.trace.adopt(place, content | {"traceId": place.trace_id, "parentSpanId": above})
