"""Trace replay: recorded lines, the note of what was sent, and an endpoint's answer."""

from andon.tracing import lines, notes, read, send
from andon.tracing.connection import Answer
from andon.tracing.endpoint import endpoint
from andon.tracing.errors import TraceError
from andon.tracing.lines import trim_torn_line
from andon.tracing.notes import note_offset, sent_offset
from andon.tracing.read import read_spans
from andon.tracing.send import count_spans, judged, undelivered
from tests.fuzz.files import parts, present

REFUSALS = (TraceError,)
PARSER = {
    read: ("read_spans", "parse_line", "recorded_span", "values"),
    send: ("judged", "undelivered", "count_spans"),
    notes: ("sent_offset", "note_offset"),
    lines: ("complete_lines", "trim_torn_line"),
}
URL = "http://localhost:4318"


def one(data: bytes) -> None:
    """A trace and its note, where not empty, and an answer; the next offset is noted and an incomplete line is cut."""
    trace, note, reply = parts(data, 3)
    path = present("trace.jsonl", trace)
    present("trace.jsonl.sent.json", note)
    problems = []
    for step in (
        lambda: judged(URL, Answer(200, "OK", "application/json", "", reply), count_spans(trace)),
        lambda: read_spans(path),
        lambda: undelivered(path, URL),
    ):
        try:
            step()
        except TraceError as error:
            problems.append(error)
    note_offset(path, endpoint(URL), sent_offset(path, endpoint(URL)))
    trim_torn_line(path)
