"""What a run's trace says and where it goes, through the command line."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from andon.core.files.folders import latest_checkpoint
from andon.log import of_kind, read_log
from andon.runs.run import run
from andon.tracing import jaeger, send
from andon.tracing.lines import complete_lines
from andon.tracing.read import RecordedSpan, read_spans
from tests.andon.test_bad_input import toml
from tests.otlp import endpoint
from tests.small_run import TABLES, small_config, write_corpus
from tests.tracing.test_record import named
from tests.tracing.test_spans import assert_valid

ROOT = Path(__file__).parents[2]
SECRET = "hunter2"  # noqa: S105 - what must not be seen
NO_WITH = {"train run start", "train run end", "train window", "between steps", "gc"}  # spans that no `with` opens


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A corpus, in the folder where everything runs."""
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus")


def traced(folder: Path) -> list[RecordedSpan]:
    """The spans of a run's folder."""
    return read_spans(folder / "trace.jsonl").spans


def train(folder: Path, paths: list[str], *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`andon train` in a process of its own."""
    (folder / "small.toml").write_text(toml(TABLES))
    command = [sys.executable, "-m", "andon", "train", "small.toml", "--out", "run", "--data", *paths, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


def where(span: RecordedSpan) -> tuple[str, str]:
    """The function that a span names, and the source at its line."""
    path, line = span.attributes["code.file.path"], span.attributes["code.line.number"]
    return span.attributes["code.function.name"], (ROOT / path).read_text().splitlines()[line - 1].strip()


@pytest.mark.tier2
def test_every_span_names_its_own_with(paths: list[str], tmp_path: Path) -> None:
    """Behavior: function and line of each span of a run are those of its `with`, as the repository has the file."""
    run(small_config(paths), tmp_path / "run", quiet=True)
    spans = traced(tmp_path / "run")
    loop, runs = "andon.core.training.loop", "andon.runs.run"
    expected = {
        "train.step": (f"{loop}.train", 'with span("train.step", step='),
        **{name: (f"{loop}.train", f'with _phase("{name}", span') for name in ("data", "clip", "optimizer")},
        **{name: (f"{loop}.accumulate_gradients", f'with _phase("{name}", span') for name in ("forward", "backward")},
        "logging": (f"{runs}._loop", 'with span("logging")'),
        "validation": ("andon.runs.saving.validate", 'with span("validation")'),
        "checkpoint": ("andon.runs.saving.validate_and_save", 'with span("checkpoint")'),
    }
    found = {span.name: where(span) for span in spans if span.name not in NO_WITH}
    assert expected.keys() == found.keys()
    for span in spans:
        if span.name not in NO_WITH:
            function, source = where(span)
            assert (expected[span.name][0], True) == (function, source.startswith(expected[span.name][1])), span.name
    assert_valid(spans)


@pytest.mark.tier2
def test_what_a_runs_spans_say(paths: list[str], tmp_path: Path) -> None:
    """Behavior: a step's figures equal the log's; the first is marked; the start says what is trained, and no path."""
    run(small_config(paths), tmp_path / "run", quiet=True)
    spans = traced(tmp_path / "run")
    steps, records = named(spans, "train.step"), of_kind(read_log(tmp_path / "run"), "step")
    for span, record in zip(steps, records, strict=True):
        said = {key.removeprefix("train."): value for key, value in span.attributes.items()}
        keys = ("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "skipped")
        assert {key: record[key] for key in keys} == {key: said[key] for key in keys}
        assert (span.trace_id, span.span_id) == (record["trace_id"], record["span_id"])
        assert {"cpu_seconds", "major_faults", "peak_bytes"} <= said.keys()
    assert [True] == [span.attributes["train.measuring"] for span in steps if "train.measuring" in span.attributes]
    (start,) = named(spans, "train run start")
    assert {
        "train.run.id",
        "train.steps",
        "train.resumed_at",
        "train.config.sha256",
        "train.model",
        "train.model.parameters",
        "train.adapter",
        "train.dtype",
        "train.device",
        "train.threads",
        "train.torch",
    } <= start.attributes.keys()
    assert "service.version" in start.resource
    assert str(tmp_path) not in (tmp_path / "run" / "trace.jsonl").read_text()


@pytest.mark.tier2
def test_skipped_steps_and_the_cord_are_events(paths: list[str], tmp_path: Path) -> None:
    """Behavior: a finding is an event with numbers, and its window is found by it."""
    changes = [("training.learning_rate", 1e30), ("training.grad_clip", 0), ("training.max_skipped_steps", 3)]
    run(small_config(paths, *changes), tmp_path / "skipped", quiet=True)
    events = [event.name for span in traced(tmp_path / "skipped") for event in span.events]
    assert ["train.skipped"] * 3 == [name for name in events if name == "train.skipped"]
    (window,) = named(traced(tmp_path / "skipped"), "train window")
    assert "train.not_finite" == window.attributes["train.finding"]
    run(small_config(paths, ("cord.loss_above", 0.1), ("cord.window_steps", 2)), tmp_path / "cord", quiet=True)
    event, said = [event for span in traced(tmp_path / "cord") for event in span.events]
    assert ("cord.loss", 0.1) == (event.name, event.attributes["train.threshold"])
    assert "train.verdict" == said.name


@pytest.mark.tier2
def test_the_links_stand_at_the_end_of_a_run_that_was_sent(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: where Jaeger answers; elsewhere nothing is said of it. The environment may name the endpoint."""
    for is_jaeger, variable in ((True, False), (False, True)):
        with endpoint() as server:
            monkeypatch.setattr(jaeger, "QUERY_PORT", server.server_port)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url if variable else "")
            server.is_jaeger = is_jaeger
            said: list[str] = []
            folder = tmp_path / f"run-{is_jaeger}"
            run(small_config(paths), folder, quiet=True, otlp=None if variable else server.url, say=said.append)
            assert len(traced(folder)) == len(server.spans)
        links = [line.strip() for line in said if "/trace/" in line or "/search" in line]
        roots = [f"{server.url}/trace/{span.trace_id}" for span in traced(folder) if not span.parent_id]
        assert links[1:] == (roots if is_jaeger else [])
        assert ("in Jaeger's view" in " ".join(said)) == is_jaeger


@pytest.mark.tier3
def test_a_header_that_cannot_be_sent_is_refused_before_the_run(paths: list[str], tmp_path: Path) -> None:
    """Behavior: one line without the value, exit code 2, and no run."""
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET}%0A"}
    done = train(tmp_path, paths, "--otlp", "http://127.0.0.1:9", **headers)
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_no_secret_in_any_file(paths: list[str], tmp_path: Path) -> None:
    """Behavior: neither a header's value nor an address's password is printed or written by a run that was sent."""
    with endpoint() as server:
        server.status, server.answer = 403, f"no {SECRET} and no {SECRET}2".encode()
        url = f"http://user:{SECRET}2@127.0.0.1:{server.server_port}"
        done = train(tmp_path, paths, "--otlp", url, OTEL_EXPORTER_OTLP_HEADERS=f"x-token={SECRET}")
    assert 0 == done.returncode, done.stderr
    assert "answered HTTP 403" in done.stdout
    written = [each.read_bytes() for each in (tmp_path / "run").rglob("*") if each.is_file()]
    assert SECRET not in done.stdout + done.stderr
    assert not any(SECRET.encode() in each for each in written)


@pytest.mark.tier2
def test_the_file_is_what_jaegers_page_uploads(paths: list[str], tmp_path: Path) -> None:
    """Reference: Jaeger's page takes a file of JSON lines, each an object with `resourceSpans`, in its Upload tab."""
    run(small_config(paths), tmp_path / "run", quiet=True)
    for _, line in complete_lines(tmp_path / "run" / "trace.jsonl"):
        content: dict[str, Any] = json.loads(line)
        assert ["resourceSpans"] == list(content)
        assert all(each["scopeSpans"][0]["spans"] for each in content["resourceSpans"])


@pytest.mark.tier3
def test_losses_are_equal_however_a_run_is_traced(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: losses, norms and weights are bitwise equal untraced, traced, sent, and sent to who never answers."""
    monkeypatch.setattr(send, "CLOSE_SECONDS", 0.1)
    config, found = small_config(paths), {}
    with endpoint() as server, socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, url in (("plain", None), ("traced", None), ("sent", server.url), ("hanging", hanging)):
            run(config, tmp_path / name, traced=name != "plain", otlp=url, quiet=True)
            newest = latest_checkpoint(tmp_path / name / "checkpoints")
            assert newest
            records = of_kind(read_log(tmp_path / name), "step")
            weights = {each.name: each.read_bytes() for each in newest.glob("*.safetensors")}
            assert weights
            found[name] = ([(record["loss"], record["grad_norm"]) for record in records], weights)
        assert server.spans
    assert all(found["plain"] == each for each in found.values())
