"""Deliver recorded lines to an OTLP/HTTP endpoint, each exactly as it was written, later or while the run goes on.

The file is the queue: whoever delivers takes the next line behind the offset kept beside the file
(`trace.jsonl.sent.json`, one offset an endpoint), so nothing waits in memory, nothing is dropped, an interrupted
delivery continues, and a live run and a replay never send a line twice. Only a process killed between the endpoint's
answer and the note of it sends that one line again.

Protocol: OTLP 1.x, "OTLP/HTTP", JSON encoding; `OTEL_EXPORTER_OTLP_HEADERS` is honored as specified there.
"""

import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from andon.files import write_whole
from andon.tracing.lines import complete_lines
from andon.tracing.read import MALFORMED, TraceError, require_trace

REQUEST_SECONDS = 10.0
POLL_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
CLOSE_SECONDS = 2.0
# MLflow answers JSON in protobuf, whose empty message, full success, has no bytes.
EMPTY_ANSWERS = {"application/x-protobuf": b"{}"}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Delivery(NamedTuple):
    """Spans an endpoint accepted and rejected, and its last word on why."""

    accepted: int = 0
    rejected: int = 0
    reason: str = ""

    def plus(self, other: "Delivery") -> "Delivery":
        """Both together; the later reason wins."""
        return Delivery(self.accepted + other.accepted, self.rejected + other.rejected, other.reason or self.reason)


def count_spans(line: bytes) -> int:
    """Spans in a recorded line, without parsing it: quotes inside JSON strings are escaped, so only keys match."""
    return line.count(b'"startTimeUnixNano":')


def endpoint(url: str) -> str:
    """The address spans are posted to: `url` with `/v1/traces` behind it, unless it is there already.

    Raises TraceError where `url` is not an http(s) address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TraceError(f"otlp={url!r} is not an http(s) address; Jaeger on this machine is http://localhost:4318")
    return url.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"


def headers() -> dict[str, str]:
    """Headers of a request, with those the user's OTEL_EXPORTER_OTLP_HEADERS (`key=value,...`) adds."""
    pairs = (item.partition("=") for item in os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(","))
    own = {unquote(key.strip()): unquote(value.strip()) for key, separator, value in pairs if separator}
    return {"Content-Type": "application/json", **own}


def opener(host: str | None) -> urllib.request.OpenerDirector:
    """An opener without redirects, since a redirected POST becomes a GET whose answer would look like success.

    A proxy the user has set is not asked about this machine's own ports.
    """
    proxy = urllib.request.ProxyHandler({} if host in LOOPBACK else None)
    http, https = urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()
    director = urllib.request.OpenerDirector()
    for handler in (proxy, http, https, urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()):
        director.add_handler(handler)
    return director


def post(url: str, line: bytes) -> Delivery:
    """Post one recorded line. Raises TraceError where the endpoint does not answer, refuses, or is no OTLP endpoint."""
    target = endpoint(url)
    request = urllib.request.Request(target, data=line, headers=headers())  # noqa: S310 - endpoint() allows http(s) only
    try:
        with opener(urlsplit(target).hostname).open(request, timeout=REQUEST_SECONDS) as response:
            body = response.read() or EMPTY_ANSWERS.get(response.headers.get_content_type(), b"")
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(300).decode(errors="replace").strip()
        raise TraceError(f"{target} answered HTTP {error.code} {error.reason}: {said or 'no more said'}") from error
    except (OSError, HTTPException) as error:
        why = getattr(error, "reason", error)
        raise TraceError(f"{target} cannot be reached ({why}); start it, or name another endpoint") from error
    return judged(target, body, count_spans(line))


def judged(target: str, body: bytes, sent: int) -> Delivery:
    """What an answer with status 200 says about `sent` spans. Raises TraceError where it is not OTLP's answer."""
    try:
        partial = json.loads(body).get("partialSuccess") or {}
        rejected = int(partial.get("rejectedSpans", 0))
    except MALFORMED as error:
        start = body[:80].decode(errors="replace")
        raise TraceError(f"{target} is not an OTLP endpoint: it answered {start!r}; OTLP/HTTP has port 4318") from error
    return Delivery(sent - rejected, rejected, partial.get("errorMessage", ""))


def sent_file(path: Path) -> Path:
    """Where the offsets delivered from `path` are kept."""
    return path.with_name(path.name + ".sent.json")


def sent_offset(path: Path, url: str) -> int:
    """Bytes of `path` that `url` has taken so far. Raises TraceError where the note of it is damaged."""
    notes = sent_file(path)
    if not notes.exists():
        return 0
    try:
        offset = int(json.loads(notes.read_text(encoding="utf-8")).get(endpoint(url), 0))
    except MALFORMED as error:
        raise TraceError(f"{notes} is damaged ({error}); delete it, and everything is sent again") from error
    if not 0 <= offset <= (path.stat().st_size if path.exists() else 0):
        raise TraceError(f"{notes} says {offset} bytes were sent, beyond the end of {path.name}; delete it")
    return offset


def note_offset(path: Path, url: str, offset: int) -> None:
    """Keep `offset` for `url`, whole or not at all."""
    notes = sent_file(path)
    offsets = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    write_whole(notes, json.dumps(offsets | {endpoint(url): offset}))


def deliver_next(path: Path, url: str) -> Delivery | None:
    """Deliver the first line `url` has not taken yet; None where there is none. Raises TraceError as `post` does."""
    with FileLock(path.with_name(path.name + ".lock")):
        upcoming = next(complete_lines(path, sent_offset(path, url)), None)
        if upcoming is None:
            return None
        offset, line = upcoming
        delivery = post(url, line)
        note_offset(path, url, offset)
        return delivery


def undelivered(path: Path, url: str) -> int:
    """Spans of `path` that `url` has not taken yet. Raises TraceError where the file is gone, or its note cannot be."""
    require_trace(path)
    return sum(count_spans(line) for _, line in complete_lines(path, sent_offset(path, url)))


def replay(path: Path, url: str, *, again: bool = False, progress: Callable[[int], None] | None = None) -> Delivery:
    """Deliver what `url` has not taken yet, or everything with `again`; `progress` hears the spans of each line.

    Raises TraceError as `post` does; what was delivered until then stays noted, and the next call goes on from there.
    """
    require_trace(path)
    if again:
        note_offset(path, url, 0)
    total = Delivery()
    while delivery := deliver_next(path, url):
        total = total.plus(delivery)
        if progress:
            progress(delivery.accepted + delivery.rejected)
    return total


class Sender:
    """Delivers the lines of a growing file from a thread of its own, which the run never waits for."""

    def __init__(self, path: Path, url: str) -> None:
        endpoint(url)
        self.path = path
        self.url = url
        self.total = Delivery()
        self.problem = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_until_closed, name="otlp-sender", daemon=True)
        self._thread.start()

    def _deliver_until_closed(self) -> None:
        wait = POLL_SECONDS
        while True:
            last_round = self._closing.is_set()
            try:
                while self.path.exists() and (delivery := deliver_next(self.path, self.url)):
                    self.total = self.total.plus(delivery)
                self.problem = ""
                wait = POLL_SECONDS
            except (TraceError, OSError) as error:
                self.problem = str(error)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
            if last_round:
                return
            self._closing.wait(wait)

    def close(self) -> list[str]:
        """Give the last lines CLOSE_SECONDS to go out, then stop waiting; a sentence for whatever did not arrive."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        said = []
        if self.total.rejected:
            said.append(f"{self.url} rejected {self.total.rejected} spans: {self.total.reason or 'it did not say why'}")
        try:
            left = undelivered(self.path, self.url)
        except TraceError as error:
            return [*said, str(error)]
        if left:
            why = self.problem or f"{CLOSE_SECONDS:g} s were not enough"
            said.append(f"{left} spans did not reach {self.url} ({why}); `andon trace replay` sends them from the file")
        return said
