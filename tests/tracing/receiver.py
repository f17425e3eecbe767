"""`python -m tests.tracing.receiver PORT FILE SEED`: an endpoint that fails in every way, made to be killed.

What it has taken it appends to FILE, a request a line, before it answers; `lost` there stands for an answer that was
not given. SEED 0 is a healthy one. A request with a poisoned line gets 400; a span whose id ends in "77" is
rejected.
"""

import json
import random
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from andon.tracing.read import parse_line

POISON = b'"train.poison"'
REJECTED = "77"
HANG_SECONDS = 1.0


class Handler(BaseHTTPRequestHandler):
    """Takes one request, or not."""

    protocol_version = "HTTP/1.1"
    file: Path
    chance: random.Random | None

    def do_POST(self) -> None:
        """Fail by chance; keep the spans; answer, if the answer is not lost."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.chance.choice(["", "", "", "busy", "lost", "hang", "slow", "reset"]) if self.chance else ""
        if fault == "busy":
            self.reply(503, b"", "0")
        elif fault == "hang":
            time.sleep(HANG_SECONDS)
        elif POISON in body:
            self.reply(400, b"a poisoned line")
        elif fault != "reset":
            self.keep(body, fault)

    def keep(self, body: bytes, fault: str) -> None:
        """Store and answer."""
        ids = [span.span_id for span in parse_line(body)]
        kept = [each for each in ids if not each.endswith(REJECTED)]
        with self.file.open("a", encoding="ascii") as file:
            file.write(json.dumps({"ids": kept, "fault": fault}) + "\n")
        if fault == "lost":
            self.close_connection = True
            return
        time.sleep(0.02 if fault == "slow" else 0)
        answer = {"partialSuccess": {"rejectedSpans": str(len(ids) - len(kept)), "errorMessage": "no sevens"}}
        self.reply(200, json.dumps(answer if len(kept) < len(ids) else {}).encode())

    def reply(self, status: int, answer: bytes, retry_after: str = "") -> None:
        """Send an answer."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(answer)

    def handle(self) -> None:
        """A client that went away is nothing to report."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep test output quiet."""


def main(port: str, file: str, seed: str) -> None:
    """Serve until killed."""
    Handler.file, Handler.chance = Path(file), random.Random(int(seed)) if int(seed) else None
    with ThreadingHTTPServer(("127.0.0.1", int(port)), Handler) as server:
        sys.stdout.write(f"ready {server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever(poll_interval=0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
