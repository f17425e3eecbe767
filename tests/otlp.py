"""An OTLP/HTTP endpoint on this machine that keeps what it is sent."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from andon.tracing.read import RecordedSpan, parse_line

ACCEPTED = b'{"partialSuccess":{}}'


class Endpoint(ThreadingHTTPServer):
    """Answers every POST with `status` and `answer`, and with 503 once it has kept `fail_after` lines."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.answer = ACCEPTED
        self.content_type = "application/json"
        self.fail_after: int | None = None
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.lines: list[bytes] = []

    @property
    def url(self) -> str:
        """Its address, without `/v1/traces`."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[RecordedSpan]:
        """Every span received, in order."""
        return [span for line in self.lines for span in parse_line(line)]


class Handler(BaseHTTPRequestHandler):
    """Reads one request whole."""

    def do_POST(self) -> None:
        """Keep the body and answer."""
        server = self.server
        assert isinstance(server, Endpoint)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        failing = server.fail_after is not None and len(server.lines) >= server.fail_after
        if not failing:
            server.paths.append(self.path)
            server.headers.append(dict(self.headers))
            server.lines.append(body)
        answer = b"come back later" if failing else server.answer
        self.send_response(503 if failing else server.status)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(answer)))
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
