"""OpenTelemetry for anybody's training loop.

`record` writes spans (needs the extra `trace`); `read` and `send` read them back and deliver them to an OTLP endpoint,
and need nothing but the standard library and filelock. Nothing here is imported until it is used.
"""

from typing import TYPE_CHECKING

from andon.lazy import on_first_use

if TYPE_CHECKING:
    from andon.tracing.read import RecordedSpan, Recording, TraceError, read_spans
    from andon.tracing.record import Trace, open_trace
    from andon.tracing.send import replay, undelivered

__all__ = [
    "RecordedSpan",
    "Recording",
    "Trace",
    "TraceError",
    "open_trace",
    "read_spans",
    "replay",
    "undelivered",
]

__getattr__, __dir__ = on_first_use(__name__)
