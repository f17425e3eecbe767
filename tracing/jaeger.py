"""Jaeger's query interface: whether a server is Jaeger, links to what was sent, and what of it is stored.

Jaeger acknowledges before it stores, so that "accepted" is not "stored". Its memory storage keeps copies, and answers
scopes without `spans`.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from andon.tracing.connection import Connection
from andon.tracing.endpoint import Endpoint, endpoint
from andon.tracing.errors import TraceError
from andon.tracing.lines import complete_lines
from andon.tracing.read import MALFORMED, checked_line, require_trace
from andon.tracing.send import Lines, count_spans, joined, judged

QUERY_PORT = 16686
LOOK_SECONDS = 1.0
TRACE_BYTES = 256 * 2**20
STORED_SECONDS = (0.0, 0.5, 1.0, 2.0)  # waits for what was accepted to be stored
SENDS = 3
LISTED = 5


def query_of(url: str) -> Endpoint:
    """A query interface's address, such as http://localhost:16686. Raises TraceError where it is none."""
    named = endpoint(url)
    base = urlsplit(url).path.rstrip("/").removesuffix("/v1/traces")
    return named._replace(path=base)


def view(to: Endpoint, seconds: float = LOOK_SECONDS) -> str:
    """The address of Jaeger's page beside an OTLP endpoint; "" where no Jaeger answers there."""
    query = to._replace(scheme="http", port=QUERY_PORT, path="", headers={}, timeout=seconds)
    connection = Connection(query)
    try:
        answer = connection.ask("GET", "/api/v3/services", None, {})
        found = answer.status == 200 and isinstance(json.loads(answer.body).get("services"), list | None)
    except (TraceError, *MALFORMED):
        return ""
    finally:
        connection.close()
    return str(query) if found else ""


def links(page: str, trace_ids: Sequence[str], run_id: str = "") -> Iterator[str]:
    """Addresses of traces on Jaeger's page, of many the first and the last few, and of the search for the run."""
    if run_id:
        tags = quote(json.dumps({"train.run.id": run_id}, separators=(",", ":")))
        yield f"{page}/search?service=andon&tags={tags}"
    shown = list(trace_ids) if len(trace_ids) <= 2 * LISTED else [*trace_ids[:LISTED], "", *trace_ids[-LISTED:]]
    for trace_id in shown:
        yield f"{page}/trace/{trace_id}" if trace_id else f"... {len(trace_ids) - 2 * LISTED} more"


class Stored(NamedTuple):
    """Spans of a file, those of them that were read back, and those that had to be sent again for that."""

    spans: int = 0
    found: int = 0
    resent: int = 0


class Group(NamedTuple):
    """What a file has of one trace, up to its root."""

    ids: set[str]
    lines: Lines


def groups(path: Path) -> Iterator[tuple[str, Group]]:
    """The traces of a file one after the other: each once its root was read, and at last those without one."""
    require_trace(path)
    waiting: dict[str, Group] = {}
    for number, (end, line) in enumerate(complete_lines(path), start=1):
        spans = checked_line(path, number, line)
        for trace_id in dict.fromkeys(span.trace_id for span in spans):
            group = waiting.setdefault(trace_id, Group(set(), []))
            group.ids.update(span.span_id for span in spans if span.trace_id == trace_id)
            group.lines.append((end, line))
        for root in [span.trace_id for span in spans if not span.parent_id]:
            yield root, waiting.pop(root)
    yield from waiting.items()


def check(path: Path, url: str, to: Endpoint, progress: Callable[[int], None] | None = None) -> Stored:
    """Read every trace of `path` back from the query interface at `url`; send what is missing to `to` again.

    Raises TraceError where one of the two does not answer, and where a line is not OTLP JSON.
    """
    query, sender = Connection(query_of(url)), Connection(to)
    total = Stored()
    try:
        for trace_id, group in groups(path):
            missing, resent = _made_whole(query, sender, trace_id, group)
            spans = len(group.ids)
            total = Stored(total.spans + spans, total.found + spans - len(missing), total.resent + resent)
            if progress:
                progress(spans)
    finally:
        query.close()
        sender.close()
    return total


def _made_whole(query: Connection, sender: Connection, trace_id: str, group: Group) -> tuple[set[str], int]:
    """The ids that are missing in the end, and how many were sent again."""
    missing, resent = _missing(query, trace_id, group.ids), 0
    for _ in range(SENDS):
        if not missing:
            break
        lines = [(end, line) for end, line in group.lines if any(each.encode() in line for each in missing)]
        judged(sender.endpoint, sender.post(joined(lines)), sum(count_spans(line) for _, line in lines))
        resent = max(resent, len(missing))
        missing = _missing(query, trace_id, missing)
    return missing, resent


def _missing(query: Connection, trace_id: str, ids: set[str]) -> set[str]:
    """Those of `ids` that are not stored, once storing had its time."""
    missing = ids
    for seconds in STORED_SECONDS:
        time.sleep(seconds)
        missing = missing - stored_ids(query, trace_id)
        if not missing:
            break
    return missing


def stored_ids(query: Connection, trace_id: str) -> set[str]:
    """The spans of a trace that Jaeger has. Raises TraceError where the answer is not its own."""
    to = query.endpoint
    answer = query.ask("GET", f"{to.path}/api/v3/traces/{trace_id}", None, to.headers, TRACE_BYTES)
    if answer.status == 404:
        return set()
    try:
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}")
        return {span["spanId"] for span in _spans(json.loads(answer.body))}
    except MALFORMED as error:
        raise TraceError(f"{to} is not Jaeger's query interface ({error!r}); it has port {QUERY_PORT}") from error


def _spans(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource_spans in content["result"].get("resourceSpans", []):
        for scope in resource_spans.get("scopeSpans", []):
            yield from scope.get("spans", [])


def page_configuration(repository: str | None, revision: str, reports: str) -> dict[str, Any]:
    """What makes Jaeger's page link a run's traces to its report and, where it is known, a line to its source."""
    text, report = "Report of #{train.run.id}", f"{reports}/#{{train.run.id}}/report.html"
    patterns = [{"type": "tags", "key": "train.run.id", "url": report, "text": text}]
    if repository:
        source = f"{repository}/blob/{revision}/#{{code.file.path}}#L#{{code.line.number}}"
        named = "Source: #{code.function.name}"
        patterns += [{"type": "tags", "key": "code.line.number", "url": source, "text": named}]
    return {"criticalPathEnabled": True, "linkPatterns": patterns}
