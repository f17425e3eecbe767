"""OpenTelemetry for anybody's training loop.

`run` records a loop by two lines of its own, `record` writes spans, `read` and `send` read them back and deliver them
to an OTLP endpoint. All of it needs nothing but the standard library and filelock. Nothing here is imported until it is
used.
"""

from typing import TYPE_CHECKING

from andon.lazy import on_first_use

if TYPE_CHECKING:
    from andon.tracing.errors import TraceError
    from andon.tracing.loop import Loop, run
    from andon.tracing.read import RecordedEvent, RecordedSpan, Recording, read_spans
    from andon.tracing.record import Trace, open_trace
    from andon.tracing.send import replay, undelivered

__all__ = [
    "Loop",
    "RecordedEvent",
    "RecordedSpan",
    "Recording",
    "Trace",
    "TraceError",
    "open_trace",
    "read_spans",
    "replay",
    "run",
    "undelivered",
]

__getattr__, __dir__ = on_first_use(__name__)
