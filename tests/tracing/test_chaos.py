"""Nothing is lost: a recording run and its receiver are killed, hang, refuse and fill the disk, and the sums agree."""

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from andon.tracing import send
from andon.tracing.endpoint import endpoint
from andon.tracing.lines import LineFile, complete_lines, total_bytes
from andon.tracing.notes import refused_spans
from andon.tracing.read import read_spans
from andon.tracing.record import open_trace
from andon.tracing.send import replay, undelivered
from tests.otlp import endpoint as running

TRAINER = """
import resource, sys, time
from pathlib import Path
from andon.tracing import send
from andon.tracing.record import open_trace
path, url, first, last, limit = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
send.POLL_SECONDS, send.LONGEST_WAIT_SECONDS = 0.02, 0.05
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with open_trace(path, "run-1", {}, otlp=url) as trace:
    for step in range(first, last):
        with trace.span("train.step", step=step, **({"poison": True} if step == 100 else {})):
            for phase in ("data", "forward", "backward", "clip", "optimizer"):
                with trace.span(phase):
                    pass
        time.sleep(0.001)
"""
SPANS_A_STEP = 7


class Scale(NamedTuple):
    """How many spans are recorded, and how often each side is killed."""

    spans: int
    receiver_kills: int
    trainer_kills: int


class Receiver:
    """A receiver in a process of its own, at one port for all its lives."""

    def __init__(self, file: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.file, self.kills, self.process = file, 0, None

    def start(self, seed: int) -> None:
        """Come to life, and be ready."""
        command = [sys.executable, "-m", "tests.tracing.receiver", str(self.port), str(self.file), str(seed)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout
        assert self.process.stdout.readline().startswith(b"ready")

    def kill(self) -> None:
        """Die in the midst of whatever it does."""
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process, self.kills = None, self.kills + 1


def sessions(scale: Scale, chance: random.Random) -> list[tuple[int, int, int | None]]:
    """First and last step of each session of the trainer, and the signal that ends it: half of them by each."""
    steps, count = scale.spans // SPANS_A_STEP, scale.trainer_kills + 1
    edges = [steps * number // count for number in range(count + 1)]
    ends = [signal.SIGKILL, signal.SIGTERM] * count
    chance.shuffle(ends)
    return [
        (first, last, ends[number] if number < scale.trainer_kills else None)
        for number, (first, last) in enumerate(pairwise(edges))
    ]


@pytest.mark.parametrize(
    "scale",
    [
        pytest.param(Scale(2_000, 3, 4), marks=pytest.mark.tier3),
        pytest.param(Scale(100_000, 20, 40), marks=pytest.mark.slow),
    ],
    ids=["2000", "100000"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_delivered_and_refused_are_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: Scale
) -> None:
    """Behavior: every span arrives or is counted as refused, and at most one request comes twice for each fault."""
    chance, path = random.Random(7), tmp_path / "trace.jsonl"
    receiver = Receiver(tmp_path / "received.jsonl")
    url = f"http://127.0.0.1:{receiver.port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
    plan = sessions(scale, chance)
    receiver_kills = [chance.randrange(1, len(plan)) for _ in range(scale.receiver_kills)]
    for number, (first, last, end) in enumerate(plan):
        full = total_bytes(path) + 20_000 if number == 1 else 0  # one of them finds the disk full
        arguments = [str(path), url, *map(str, (first, last, full))]
        trainer = subprocess.Popen([sys.executable, "-c", TRAINER, *arguments], stderr=subprocess.DEVNULL)
        if number == 1:  # the first one had nobody to send to
            receiver.start(number)
        for _ in range(receiver_kills.count(number)):
            time.sleep(0.2 + 0.2 * chance.random())
            receiver.kill()
            receiver.start(number + 1000)
        if end:
            time.sleep(0.3 + 0.001 * chance.random() * (last - first))
            trainer.send_signal(end)
        trainer.wait()
    receiver.kill()
    receiver.start(0)
    monkeypatch.setattr(send, "TRIES_SECONDS", (0.1,) * 5)
    replay(path, url)
    receiver.kill()
    judge(path, receiver, url, scale)


def judge(path: Path, receiver: Receiver, url: str, scale: Scale) -> None:
    """Compare what lies in the file with what the receiver has."""
    spans, torn = read_spans(path)
    written = [span.span_id for span in spans]
    requests = [json.loads(line) for line in receiver.file.read_text().splitlines() if line.endswith("}")]
    delivered = Counter(each for request in requests for each in request["ids"])
    refused = refused_spans(path, endpoint(url))
    assert (0, 0) == (torn, undelivered(path, url))
    assert len(written) == len(set(written)) > 0.4 * scale.spans
    assert delivered.keys() <= set(written)
    assert len(written) == len(delivered) + refused
    assert 0 < refused
    seen: set[str] = set()
    twice = 0
    for request in requests:
        twice += not seen.isdisjoint(request["ids"])
        seen.update(request["ids"])
    unanswered = sum(request["fault"] == "lost" for request in requests)
    assert twice <= receiver.kills + scale.trainer_kills + unanswered


SLOW_EXIT = """
import sys, time
from pathlib import Path
from andon.tracing.record import open_trace
with open_trace(Path(sys.argv[1]), "run-1", {}, otlp=sys.argv[2]) as trace:
    with trace.span("train.step", step=1):
        pass
    time.sleep(0.2)
    begun = time.monotonic()
sys.stdout.write(f"{time.monotonic() - begun} {trace.notes}\\n")
sys.stdout.flush()
"""
EXIT_SECONDS = 2.5


def seconds_of_exit(path: Path, url: str) -> tuple[float, float, str]:
    """Seconds in which the trace and then the process end, and what is said."""
    command = [sys.executable, "-c", SLOW_EXIT, str(path), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = process.stdout.readline()
        begun = time.monotonic()
        process.wait()
    return float(said.split()[0]), time.monotonic() - begun, said


@pytest.mark.tier3
@pytest.mark.parametrize("kind", ["absent", "hanging", "busy"])
def test_no_endpoint_holds_up_a_runs_end(tmp_path: Path, kind: str) -> None:
    """Behavior: a run ends within 2.5 s, whatever its endpoint does, and says what did not arrive."""
    with socket.create_server(("127.0.0.1", 0)) as silent, running() as server:
        server.status, server.retry_after = 503, "3600"
        urls = {"absent": "http://127.0.0.1:9", "busy": server.url}
        url = urls.get(kind, f"http://127.0.0.1:{silent.getsockname()[1]}")
        trace, process, said = seconds_of_exit(tmp_path / "trace.jsonl", url)
    assert trace + process < EXIT_SECONDS
    assert "5 spans did not reach" in said


@pytest.mark.slow
def test_a_long_runs_backlog_holds_up_nothing(tmp_path: Path) -> None:
    """Behavior: also with the lines of 100,000 steps undelivered, and being compressed."""
    path = tmp_path / "trace.jsonl"
    with open_trace(path, "run-1", {}) as trace, trace.span("train.step", step=1):
        for _ in range(8):
            with trace.span("forward"):
                pass
    *_, line = [line for _, line in complete_lines(path) if b"forward" in line]
    file = LineFile(path)
    for _ in range(366_000_000 // len(line)):
        file.write(line)
    file.close()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        trace_, process, said = seconds_of_exit(path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert trace_ + process < EXIT_SECONDS
    assert "spans of 366 MB did not reach" in said
