"""Deliver recorded lines to an OTLP/HTTP endpoint, later or while the run goes on.

The file is the queue: whoever delivers takes the next lines behind the offset kept beside it (`notes`), so nothing
waits in memory, nothing is dropped, an interrupted delivery continues, and a live run and a replay never send a line
twice. Only a process killed between the endpoint's answer and the note of it sends those lines again, under the same
ids.

Whole lines are joined within one `resourceSpans` array up to REQUEST_BYTES: of two JSON values Jaeger reads the first
and answers 200. Protocol: OTLP 1.x, "OTLP/HTTP", JSON encoding. 429, 502, 503, 504 and no answer are tried again;
what is answered otherwise is counted as rejected, and passed over.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from andon.tracing.connection import Answer, Connection
from andon.tracing.endpoint import Endpoint, endpoint
from andon.tracing.errors import BusyError, RefusedError, TraceError
from andon.tracing.lines import complete_lines, total_bytes
from andon.tracing.notes import note_offset, sent_offset
from andon.tracing.read import MALFORMED, require_trace

REQUEST_BYTES = 4 * 10**6  # Jaeger takes 20 MiB
POLL_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
CLOSE_SECONDS = 2.0
TRIES_SECONDS = (1.0, 2.0, 4.0)  # a replay's waits for an endpoint that is there and busy
PATIENCE_SECONDS = 60.0
COUNTED_BYTES = 16 * 2**20  # of which spans are counted at a run's end
BEGIN, END = b'{"resourceSpans":[', b"]}\n"
# MLflow answers JSON in protobuf, whose empty message, full success, has no bytes.
EMPTY_ANSWERS = {"application/x-protobuf": b"{}"}
BY_CONTENT = (400, 413, 422, 500)  # what may be said of one line among many
FEW = 16  # lines: where more are refused to the last one, it is not their content


class Delivery(NamedTuple):
    """Spans an endpoint accepted and rejected, and its last word on why."""

    accepted: int = 0
    rejected: int = 0
    reason: str = ""

    def plus(self, other: "Delivery") -> "Delivery":
        """Both together; the later reason wins."""
        return Delivery(self.accepted + other.accepted, self.rejected + other.rejected, other.reason or self.reason)


Lines = list[tuple[int, bytes]]  # each with the offset behind it


def count_spans(line: bytes) -> int:
    """Spans in a recorded line, without parsing it: quotes inside JSON strings are escaped, so only keys match."""
    return line.count(b'"startTimeUnixNano":')


def joined(lines: Lines) -> bytes:
    """One request of several lines; one line stays as it is."""
    if len(lines) == 1:
        return lines[0][1]
    return BEGIN + b",".join(line[len(BEGIN) : -len(END)] for _, line in lines) + END


def batches(lines: Iterator[tuple[int, bytes]]) -> Iterator[Lines]:
    """Lines in groups of at most REQUEST_BYTES. One that is not as we write them stands alone."""
    batch: Lines = []
    size = 0
    for end, line in lines:
        alone = not (line.startswith(BEGIN) and line.endswith(END))
        if batch and (alone or size + len(line) > REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((end, line))
        size += REQUEST_BYTES if alone else len(line)
    if batch:
        yield batch


def judged(target: object, answer: Answer, sent: int) -> Delivery:
    """What a successful answer says about `sent` spans. Raises TraceError where it is not OTLP's."""
    body = answer.body or EMPTY_ANSWERS.get(answer.content_type, b"")
    try:
        partial = json.loads(body).get("partialSuccess") or {}
        rejected = min(max(int(partial.get("rejectedSpans", 0)), 0), sent)
        reason = str(partial.get("errorMessage", ""))
    except MALFORMED as error:
        start = body[:80].decode(errors="replace")
        raise TraceError(f"{target} is not an OTLP endpoint: it answered {start!r}; OTLP/HTTP has port 4318") from error
    return Delivery(sent - rejected, rejected, reason)


class Deliverer:
    """Delivers a trace to an endpoint from where the note says on, over one connection."""

    def __init__(self, path: Path, to: Endpoint) -> None:
        self.path, self.to = path, to
        self.total = Delivery()
        self._connection = Connection(to)
        self._waiting: Iterator[Lines] = iter(())
        self._at = -1
        self._divide = True

    def next(self) -> Delivery | None:
        """Deliver the next request's lines; None where there are none.

        Raises BusyError where they are to be sent again later, and TraceError where the endpoint or the file is none.
        """
        with FileLock(self.path.with_name(self.path.name + ".lock")):
            offset = sent_offset(self.path, self.to)
            if offset != self._at:  # at first, and where another process has delivered meanwhile
                self._waiting, self._at = batches(complete_lines(self.path, offset)), offset
            batch = next(self._waiting, None)
            if batch is None:
                self._at = -1  # the lines to come are read by a new pass
                return None
            self._at = -1
            delivery = self._deliver(batch)
            self._at = batch[-1][0]
            self.total = self.total.plus(delivery)
            return delivery

    def _deliver(self, lines: Lines) -> Delivery:
        spans = sum(count_spans(line) for _, line in lines)
        try:
            answer = self._connection.post(joined(lines))
        except RefusedError as error:
            if len(lines) > 1 and error.status in BY_CONTENT and self._divide:
                return self._deliver_halves(lines)
            delivery = Delivery(0, spans, str(error))
        else:
            delivery = judged(self.to, answer, spans)
        note_offset(self.path, self.to, lines[-1][0], delivery.rejected)
        return delivery

    def _deliver_halves(self, lines: Lines) -> Delivery:
        """Find the lines that are refused, so that all others arrive."""
        half = len(lines) // 2
        delivery = self._deliver(lines[:half]).plus(self._deliver(lines[half:]))
        if len(lines) >= FEW and not delivery.accepted:
            self._divide = False
        return delivery

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def undelivered(path: Path, url: str | None) -> int:
    """Spans of `path` that `url` has not taken yet. Raises TraceError where the file is gone, or its note cannot be."""
    require_trace(path)
    return sum(count_spans(line) for _, line in complete_lines(path, sent_offset(path, endpoint(url))))


def replay(
    path: Path, url: str | None, *, again: bool = False, progress: Callable[[int], None] | None = None
) -> Delivery:
    """Deliver what `url` has not taken yet, or everything with `again`; `progress` hears the spans of each request.

    Without `url`, the endpoint is the one that OpenTelemetry's variables name. One that is busy is tried again a few
    times, after the wait that it asks for.

    Raises TraceError where it does not answer or is none, and where nothing can be
    noted beside the trace; what was delivered until then stays noted, and the next call goes on from there.
    """
    to = endpoint(url)
    require_trace(path)
    try:
        if again:
            note_offset(path, to, 0)
        deliverer = Deliverer(path, to)
        try:
            while delivery := _next_of_a_busy_one(deliverer):
                if progress:
                    progress(delivery.accepted + delivery.rejected)
        finally:
            deliverer.close()
    except OSError as error:
        raise TraceError(
            f"{path} cannot be read and noted beside ({error}); name a run in a writable folder"
        ) from error
    return deliverer.total


def _next_of_a_busy_one(deliverer: Deliverer) -> Delivery | None:
    for seconds in TRIES_SECONDS:
        try:
            return deliverer.next()
        except BusyError as error:
            if not error.answered or error.wait > PATIENCE_SECONDS:
                raise
            time.sleep(max(seconds, error.wait))
    return deliverer.next()


class Sender:
    """Delivers the lines of a growing file from a thread of its own, which the run never waits for."""

    def __init__(self, path: Path, to: Endpoint) -> None:
        self.path, self.to = path, to
        self.problem = ""
        self._deliverer = Deliverer(path, to)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver_until_closed, name="otlp-sender", daemon=True)
        self._thread.start()

    def _deliver_until_closed(self) -> None:
        wait = POLL_SECONDS
        while True:
            last_round = self._closing.is_set()
            try:
                while self.path.exists() and self._deliverer.next():
                    self.problem = ""
                wait, self.problem = POLL_SECONDS, ""
            except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on and its note says it
                self.problem = self.to.redacted(str(error) if isinstance(error, TraceError) else repr(error))
                wait = max(min(2 * wait, LONGEST_WAIT_SECONDS), error.wait if isinstance(error, BusyError) else 0)
            if last_round:
                self._deliverer.close()
                return
            self._closing.wait(wait)

    @property
    def delivered(self) -> int:
        """Spans that were accepted."""
        return self._deliverer.total.accepted

    def close(self) -> list[str]:
        """Give the last lines CLOSE_SECONDS to go out, then stop waiting; a sentence for whatever did not arrive."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        said = []
        total = self._deliverer.total
        if total.rejected:
            reason = self.to.redacted(total.reason) or "it did not say why"
            said.append(f"{self.to} rejected {total.rejected} spans: {reason}")
        try:
            left = self._left()
        except (TraceError, OSError) as error:
            return [*said, str(error)]
        if left:
            why = self.problem or f"{CLOSE_SECONDS:g} s were not enough"
            said.append(f"{left} did not reach {self.to} ({why}); `andon trace replay` sends them from the file")
        return said

    def _left(self) -> str:
        """How much did not arrive; a long file is not read for that."""
        offset = sent_offset(self.path, self.to)
        size = total_bytes(self.path) - offset
        if size > COUNTED_BYTES:
            return f"spans of {size / 1e6:.0f} MB"
        spans = sum(count_spans(line) for _, line in complete_lines(self.path, offset)) if size else 0
        return f"{spans} spans" if spans else ""
