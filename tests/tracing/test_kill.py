"""What a killed run leaves."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from andon.tracing.read import read_spans
from andon.tracing.send import replay
from tests.otlp import endpoint

pytestmark = pytest.mark.tier3

KILLED = """
import os, signal, sys
from pathlib import Path
from andon.tracing.record import open_trace
with open_trace(Path(sys.argv[1]), "run-1", {}) as trace:
    for step in range(530):
        with trace.span("train.step", step=step):
            for phase in ("data", "forward", "backward", "clip", "optimizer"):
                with trace.span(phase):
                    pass
    with trace.span("train.step", step=530):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_three_thousand_spans_survive_a_kill(tmp_path: Path) -> None:
    """Behavior: a run killed inside a step has lost that step and its window's root, and not one span else."""
    path = tmp_path / "trace.jsonl"
    run = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    spans, torn = read_spans(path)
    assert (-signal.SIGKILL, 0) == (run.returncode, torn)
    assert list(range(530)) == [span.attributes["train.step"] for span in spans if span.name == "train.step"]
    phases = dict.fromkeys(("data", "forward", "backward", "clip", "optimizer"), 530)
    phases |= {"between steps": 530 - 1}  # the last one before the kill was not yet over
    assert {**phases, "train.step": 530, "train window": 5, "train run start": 1} == Counter(
        span.name for span in spans
    )
    with endpoint() as server:
        assert (len(spans), 0) == replay(path, server.url)[:2]
        assert spans == server.spans
