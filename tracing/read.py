"""Read recorded spans back: OTLP JSON lines, one `ExportTraceServiceRequest` a line.

Format: OpenTelemetry protocol file exporter specification (JSON lines) and OTLP's JSON encoding (hexadecimal ids,
64-bit integers as strings).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from andon.tracing.errors import TraceError
from andon.tracing.lines import closed_part, complete_lines, total_bytes

# What reading JSON of another shape raises; the last two are a number or a nesting without end.
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class RecordedEvent(NamedTuple):
    """Something that happened within a span, at nanoseconds since the epoch."""

    name: str
    time: int
    attributes: dict[str, Any]


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
    events: list[RecordedEvent]


class Recording(NamedTuple):
    """All spans of a file in the order written, and the bytes of a last line that was torn off (0 where whole)."""

    spans: list[RecordedSpan]
    torn_bytes: int


def require_trace(path: Path) -> None:
    """Raises TraceError where there is no such file."""
    if not path.is_file() and not closed_part(path, 1):
        raise TraceError(f"{path} does not exist; a run writes it unless tracing was off")


def read_spans(path: Path) -> Recording:
    """Every span of `path`. A torn last line is left out and its size reported; any other bad line is refused.

    Raises TraceError where the file is missing or a complete line is not OTLP JSON.
    """
    spans: list[RecordedSpan] = []
    whole = 0
    for end, line in lines_of_spans(path):
        spans += line
        whole = end
    return Recording(spans, total_bytes(path) - whole)


def lines_of_spans(path: Path) -> Iterator[tuple[int, list[RecordedSpan]]]:
    """The spans of each complete line in turn, in constant memory, and the offset behind it. Raises as `read_spans`."""
    require_trace(path)
    for number, (end, line) in enumerate(complete_lines(path), start=1):
        yield end, checked_line(path, number, line)


def checked_line(path: Path, number: int, line: bytes) -> list[RecordedSpan]:
    """The spans of a line. Raises TraceError, which names the line, where it is not OTLP JSON."""
    try:
        return parse_line(line)
    except MALFORMED as error:
        raise TraceError(f"{path} line {number} is not OTLP JSON ({error!r}); remove the line to go on") from error


def parse_line(line: bytes) -> list[RecordedSpan]:
    """The spans of one line. Raises one of MALFORMED where it is not OTLP JSON."""
    return [
        recorded_span(span, resource)
        for resource_spans in json.loads(line)["resourceSpans"]
        for resource in [values(resource_spans["resource"].get("attributes", []))]
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
        events=[
            RecordedEvent(event["name"], int(event["timeUnixNano"]), values(event.get("attributes", [])))
            for event in span.get("events", [])
        ],
    )


def values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """OTLP's list of {key, value: {type: value}} as a dict; integers come as strings there, NaN as its name."""
    plain = {}
    for attribute in attributes:
        ((kind, value),) = attribute["value"].items()
        plain[attribute["key"]] = int(value) if kind == "intValue" else float(value) if kind == "doubleValue" else value
    return plain


def files_of(run: Path) -> list[Path]:
    """The traces of a run's folder: its own, and one of each further rank; or the one file that is named."""
    if not run.is_dir():
        return [run]
    ranks = [each for each in run.glob("trace.rank*.jsonl") if each.stem.removeprefix("trace.rank").isdecimal()]
    return [run / "trace.jsonl", *sorted(ranks, key=lambda each: int(each.stem.removeprefix("trace.rank")))]


class Overview:
    """What a trace holds, read once in constant memory: counts, its traces, and spans whose parent never came."""

    def __init__(self, path: Path) -> None:
        """Read `path`. Raises TraceError as `read_spans` does."""
        self.spans = 0
        self.torn_bytes = 0
        self.run_id = ""
        self.trace_ids: dict[str, None] = {}
        self._orphans: dict[str, list[int]] = {}  # under the parent they wait for: how many, first and last step
        whole = 0
        for end, spans in lines_of_spans(path):
            self._add(spans)
            whole = end
        self.torn_bytes = total_bytes(path) - whole

    def _add(self, spans: list[RecordedSpan]) -> None:
        self.spans += len(spans)
        here = {span.span_id for span in spans}
        for span in spans:
            self.trace_ids[span.trace_id] = None
            self.run_id = span.resource.get("train.run.id", self.run_id)
            if span.parent_id and span.parent_id not in here:
                count, *steps = self._orphans.get(span.parent_id, [0])
                steps += [span.attributes["train.step"]] if "train.step" in span.attributes else []
                self._orphans[span.parent_id] = [count + 1, *([min(steps), max(steps)] if steps else [])]
        for span_id in here:
            self._orphans.pop(span_id, None)

    def orphans(self) -> tuple[int, list[int]]:
        """How many spans have no parent in the file, and steps among them: the least and the greatest are there."""
        waiting = self._orphans.values()
        return sum(each[0] for each in waiting), [step for each in waiting for step in each[1:]]
