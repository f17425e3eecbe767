"""An OTLP/HTTP endpoint on this machine that keeps what it is sent, and shows it as Jaeger's query interface does."""

import gzip
import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from andon.tracing.read import RecordedSpan, parse_line

ACCEPTED = b'{"partialSuccess":{}}'


class Endpoint(ThreadingHTTPServer):
    """Answers every POST with `status` and `answer`, and with 503 once it has kept `fail_after` requests.

    `refuse` says for a request which other status it gets, 0 for none; `hide` which span Jaeger has lost.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.answer = ACCEPTED
        self.content_type = "application/json"
        self.fail_after: int | None = None
        self.retry_after = ""
        self.refuse: Callable[[bytes], int] = lambda _: 0
        self.hide: Callable[[str], bool] = lambda _: False
        self.is_jaeger = False
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.lines: list[bytes] = []
        self.posts = 0
        self.connections = 0

    @property
    def url(self) -> str:
        """Its address, without `/v1/traces`."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[RecordedSpan]:
        """Every span received, in order."""
        return [span for line in self.lines for span in parse_line(line)]

    def stored(self, trace_id: str) -> dict[str, Any]:
        """The spans of a trace as Jaeger answers."""
        spans = [
            {"traceId": span.trace_id, "spanId": span.span_id, "name": span.name}
            for span in self.spans
            if span.trace_id == trace_id and not self.hide(span.span_id)
        ]
        return {"result": {"resourceSpans": [{"scopeSpans": [{"spans": spans}, {"scope": {"name": "empty"}}]}]}}


class Handler(BaseHTTPRequestHandler):
    """Reads one request whole."""

    protocol_version = "HTTP/1.1"

    @property
    def endpoint(self) -> Endpoint:
        """The server, as what it is."""
        assert isinstance(self.server, Endpoint)
        return self.server

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        self.endpoint.connections += 1

    def do_POST(self) -> None:
        """Keep the body and answer."""
        server = self.endpoint
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        server.posts += 1
        failing = server.fail_after is not None and len(server.lines) >= server.fail_after
        status = 503 if failing else server.refuse(body) or server.status
        if status == 200:
            server.paths.append(self.path)
            server.headers.append(dict(self.headers))
            server.lines.append(body)
        self.reply(status, b"come back later" if failing else server.answer)

    def do_GET(self) -> None:
        """Answer as Jaeger's query interface."""
        if not self.endpoint.is_jaeger:
            self.reply(404, b"nothing here")
        elif self.path == "/api/v3/services":
            self.reply(200, b'{"services":["andon"]}')
        else:
            self.reply(200, json.dumps(self.endpoint.stored(self.path.rpartition("/")[2])).encode())

    def reply(self, status: int, answer: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", self.endpoint.content_type)
        self.send_header("Content-Length", str(len(answer)))
        if self.endpoint.retry_after and status != 200:
            self.send_header("Retry-After", self.endpoint.retry_after)
        self.end_headers()
        self.wfile.write(answer)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep test output quiet."""


@contextmanager
def endpoint() -> Generator[Endpoint, None, None]:
    """A running endpoint."""
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
