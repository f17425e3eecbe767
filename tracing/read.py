"""Read recorded spans back: OTLP JSON lines, one `ExportTraceServiceRequest` a line.

Format: OpenTelemetry protocol file exporter specification (JSON lines) and OTLP's JSON encoding (hexadecimal ids,
64-bit integers as strings).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from andon.tracing.lines import complete_lines

# What reading JSON of another shape raises; the last two are a number or a nesting without end.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class TraceError(RuntimeError):
    """A trace file or an endpoint that cannot be used; the message names it, what is wrong, and the next step."""


class RecordedSpan(NamedTuple):
    """One span. Times are nanoseconds since the epoch; `parent_id` is empty on a root."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[tuple[str, str]]
    failed: bool


class Recording(NamedTuple):
    """All spans of a file in the order written, and the bytes of a last line that was torn off (0 where whole)."""

    spans: list[RecordedSpan]
    torn_bytes: int


def require_trace(path: Path) -> None:
    """Raises TraceError where there is no such file."""
    if not path.is_file():
        raise TraceError(f"{path} does not exist; a run writes it unless tracing was off")


def read_spans(path: Path) -> Recording:
    """Every span of `path`. A torn last line is left out and its size reported; any other bad line is refused.

    Raises TraceError where the file is missing or a complete line is not OTLP JSON.
    """
    require_trace(path)
    spans: list[RecordedSpan] = []
    offset = 0
    for number, (end, line) in enumerate(complete_lines(path), start=1):
        try:
            spans += parse_line(line)
        except MALFORMED as error:
            raise TraceError(f"{path} line {number} is not OTLP JSON ({error!r}); remove the line to go on") from error
        offset = end
    return Recording(spans, path.stat().st_size - offset)


def parse_line(line: bytes) -> list[RecordedSpan]:
    """The spans of one line. Raises one of MALFORMED where it is not OTLP JSON."""
    return [
        recorded_span(span, values(resource_spans["resource"].get("attributes", [])))
        for resource_spans in json.loads(line)["resourceSpans"]
        for scope_spans in resource_spans["scopeSpans"]
        for span in scope_spans["spans"]
    ]


def recorded_span(span: Mapping[str, Any], resource: dict[str, Any]) -> RecordedSpan:
    """One span out of OTLP's JSON."""
    return RecordedSpan(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        name=span["name"],
        start=int(span["startTimeUnixNano"]),
        end=int(span["endTimeUnixNano"]),
        attributes=values(span.get("attributes", [])),
        resource=resource,
        links=[(link["traceId"], link["spanId"]) for link in span.get("links", [])],
        failed=span.get("status", {}).get("code") == 2,
    )


def values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """OTLP's list of {key, value: {type: value}} as a dict; integers come as strings there."""
    plain = {}
    for attribute in attributes:
        ((kind, value),) = attribute["value"].items()
        plain[attribute["key"]] = int(value) if kind == "intValue" else value
    return plain
