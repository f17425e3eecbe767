"""A demo's trace in a real Jaeger: sent, and read back from its query interface."""

import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from andon.runs.run import run
from andon.tracing.read import read_spans
from andon.tracing.send import replay
from tests.small_run import small_config, write_corpus

pytestmark = pytest.mark.jaeger

WAIT_SECONDS = 30.0


def stored(url: str, trace: str) -> list[dict[str, Any]]:
    """The spans of a trace that Jaeger has, by `/api/v3/traces/ID`; waits for it, as it stores in its own time."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/api/v3/traces/{trace}") as answer:  # noqa: S310 - the user's own address
                content = json.load(answer)
            batches = content["result"]["resourceSpans"]
            return [span for batch in batches for scope in batch["scopeSpans"] for span in scope["spans"]]
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.mark.skipif("JAEGER_URL" not in os.environ, reason="needs JAEGER_URL, such as http://localhost:16686")
def test_jaeger_has_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: every span of a run is accepted, and each trace read back holds the spans of the file."""
    monkeypatch.chdir(tmp_path)
    url = os.environ["JAEGER_URL"].rstrip("/")
    run(small_config(write_corpus(tmp_path / "corpus")), tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "trace.jsonl"
    spans = read_spans(path).spans
    delivery = replay(path, f"http://{urlsplit(url).hostname}:4318")
    assert (len(spans), 0) == (delivery.accepted, delivery.rejected)
    for trace in dict.fromkeys(span.trace_id for span in spans):
        expected = sorted(span.name for span in spans if span.trace_id == trace)
        assert expected == sorted(span["name"] for span in stored(url, trace))
