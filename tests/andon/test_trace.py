"""`andon trace replay`."""

import json
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from rich.progress import Progress

from andon.cli.main import cli
from andon.tracing import jaeger, send
from andon.tracing.read import parse_line, read_spans
from andon.tracing.record import open_trace
from tests.otlp import Endpoint, endpoint

pytestmark = pytest.mark.tier2


@pytest.fixture
def server() -> Generator[Endpoint, None, None]:
    """A running endpoint."""
    with endpoint() as server:
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a trace of three steps: nine spans in three traces."""
    folder = tmp_path / "run-1"
    folder.mkdir()
    with open_trace(folder / "trace.jsonl", "run-1", {}) as trace:
        for step in range(1, 4):
            with trace.span("train.step", step=step):
                pass
    return folder


def replay(run: Path, url: str, *options: str) -> Result:
    """The command's exit code and output."""
    return CliRunner().invoke(cli, ["trace", "replay", str(run), "--otlp", url, *options])


def test_it_says_what_was_accepted_and_where_to_look(
    run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: the count of accepted spans, then the search for the run and a link a trace, where Jaeger answers."""
    monkeypatch.setattr(jaeger, "QUERY_PORT", server.server_port)
    server.is_jaeger = True
    result = replay(run, server.url)
    links = [f"  {server.url}/trace/{span.trace_id}" for span in server.spans if not span.parent_id]
    search = f"  {server.url}/search?service=andon&tags=%7B%22train.run.id%22%3A%22run-1%22%7D"
    assert 0 == result.exit_code
    assert [
        f"{server.url} accepted 9 of 9 spans",
        "3 traces, in Jaeger's view:",
        search,
        *links,
    ] == result.output.splitlines()


def test_no_link_where_the_server_is_not_jaeger(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: beside an endpoint whose query interface is none, what was accepted is all that is said."""
    monkeypatch.setattr(jaeger, "QUERY_PORT", server.server_port)
    assert f"{server.url} accepted 9 of 9 spans\n" == replay(run, server.url).output


def checked(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A replay to a Jaeger, which waits for nothing and is read back."""
    monkeypatch.setattr(jaeger, "STORED_SECONDS", (0.0,))
    server.is_jaeger = True
    return replay(run, server.url, "--check", server.url)


def test_what_is_stored_is_read_back(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: --check says how many spans are there; nothing is sent twice where all are."""
    result = checked(run, server, monkeypatch)
    assert 0 == result.exit_code
    assert f"{server.url} has 9 of 9 spans\n" in result.output
    assert 9 == len(server.spans)


def test_what_was_lost_is_sent_again(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: spans that were acknowledged and not stored arrive by --check, and they alone."""
    lost = {span.span_id for span in read_spans(run / "trace.jsonl").spans if span.name == "train.step"}
    server.hide = lambda span_id: span_id in lost and len([s for s in server.spans if s.span_id == span_id]) < 2
    result = checked(run, server, monkeypatch)
    assert 0 == result.exit_code
    assert f"{server.url} has 9 of 9 spans, 3 of them sent again\n" in result.output
    assert {2} == {[span.span_id for span in server.spans].count(each) for each in lost}
    assert "train run start" not in [span.name for span in server.spans[9:]]


def test_what_is_never_stored_is_red(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: after a few sends, the count falls short and the exit code is 1; a server that is none is code 2."""
    (start, *_) = read_spans(run / "trace.jsonl").spans
    server.hide = lambda span_id: span_id == start.span_id
    result = checked(run, server, monkeypatch)
    assert 1 == result.exit_code
    assert f"{server.url} has 8 of 9 spans, 1 of them sent again\n" in result.output
    server.is_jaeger = False
    server.content_type = "text/html"
    monkeypatch.setattr("tests.otlp.Handler.do_GET", lambda self: self.reply(200, b"<html>"))
    result = replay(run, server.url, "--check", server.url)
    assert 2 == result.exit_code
    assert "is not Jaeger's query interface" in result.output


def test_a_read_only_folder_and_a_garbled_line_are_one_line(run: Path, server: Endpoint) -> None:
    """Behavior: exit code 2, and nothing is sent of a trace with a line that is none."""
    trace = run / "trace.jsonl"
    content = trace.read_bytes().splitlines(keepends=True)
    trace.write_bytes(content[0] + content[1][:-20] + b"\n" + content[2])
    result = replay(run, server.url)
    assert (2, 1, []) == (result.exit_code, len(result.output.splitlines()), server.lines)
    assert "trace.jsonl line 2 is not OTLP JSON" in result.output
    trace.write_bytes(b"".join(content))
    (run / "trace.jsonl.lock").mkdir()  # what cannot be opened for writing, also by root
    result = replay(run, server.url)
    assert (2, 1) == (result.exit_code, len(result.output.splitlines()))
    assert "name a run in a writable folder" in result.output


def test_all_ranks_are_sent(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: of a run of several processes, the files of all."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with open_trace(run / "trace.jsonl", "run-1", {}):
        pass
    assert 0 == replay(run, server.url).exit_code
    assert 9 + 2 == len(server.spans)


def test_the_endpoint_may_be_the_environments(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: OTLP exporter, OTEL_EXPORTER_OTLP_ENDPOINT; without it and without --otlp, one line says so."""
    result = CliRunner().invoke(cli, ["trace", "replay", str(run)])
    assert (2, 1) == (result.exit_code, len(result.output.splitlines()))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    assert f"{server.url} accepted 9 of 9 spans\n" == CliRunner().invoke(cli, ["trace", "replay", str(run)]).output


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("https://user:hunter2@github.com/me/model.git", "https://github.com/me/model"),
        ("git@github.com:me/model.git", "https://github.com/me/model"),
        ("ssh://git@github.com/me/model", "https://github.com/me/model"),
        ("/srv/model", None),
    ],
)
def test_links_for_jaegers_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, address: str | None
) -> None:
    """Behavior: source links go to git's remote as a browser opens it, without a password; without one, to reports."""
    monkeypatch.chdir(tmp_path)
    for words in (["init", "-q"], ["remote", "add", "origin", origin]):
        subprocess.run(["git", *words], check=True)
    result = CliRunner().invoke(cli, ["trace", "links", "--revision", "main"])
    assert 0 == result.exit_code
    written = json.loads((tmp_path / "jaeger-ui.json").read_text())
    urls = {pattern["key"]: pattern["url"] for pattern in written["linkPatterns"]}
    source = f"{address}/blob/main/#{{code.file.path}}#L#{{code.line.number}}"
    assert "http://localhost:8000/#{train.run.id}/report.html" == urls.pop("train.run.id")
    assert urls == ({"code.line.number": source} if address else {})
    assert "hunter2" not in result.output


def test_a_second_replay_sends_nothing(run: Path, server: Endpoint) -> None:
    """Behavior: it says so and how to send again; --again does."""
    replay(run, server.url)
    assert f"nothing new: {server.url} has all 9 spans; --again sends them again" in replay(run, server.url).output
    assert 9 == len(server.spans)
    assert f"{server.url} accepted 9 of 9 spans" in replay(run, server.url, "--again").output
    assert 18 == len(server.spans)


def test_rejected_spans_are_red(run: Path, server: Endpoint) -> None:
    """Behavior: a span the endpoint rejected is counted with the endpoint's reason, and the exit code is 1."""
    server.answer = b'{"partialSuccess":{"rejectedSpans":"9","errorMessage":"too old"}}'
    result = replay(run, server.url)
    assert 1 == result.exit_code
    assert f"{server.url} accepted 0 of 9 spans\nrejected 9: too old\n" in result.output


def test_a_run_that_died_inside_a_window(run: Path, server: Endpoint) -> None:
    """Behavior: a torn last line and steps without their window's root are sent as far as they go, and said."""
    trace = run / "trace.jsonl"
    lines = trace.read_bytes().splitlines(keepends=True)
    trace.write_bytes(b"".join(lines[:4]) + lines[4][:100])
    result = replay(trace, server.url)
    assert 0 == result.exit_code
    assert [span for line in lines[:4] for span in parse_line(line)] == server.spans
    assert "left out a torn last line of 100 bytes" in result.output
    assert "5 spans (steps 1 to 3) have no window: the run ended, or is still, inside it" in result.output


def test_many_traces_are_listed_in_part(tmp_path: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: of 14 traces the first and last five are listed."""
    monkeypatch.setattr(jaeger, "QUERY_PORT", server.server_port)
    server.is_jaeger = True
    with open_trace(tmp_path / "trace.jsonl", "run-1", {}, window_steps=1) as trace:
        for step in range(12):
            with trace.span("train.step", step=step):
                pass
    lines = replay(tmp_path, server.url).output.splitlines()
    roots = [span.trace_id for span in server.spans if not span.parent_id]
    ids = list(dict.fromkeys(span.trace_id for span in server.spans))
    assert set(roots) == set(ids)
    assert [*ids[:5], *ids[-5:]] == [line[-32:] for line in lines if "/trace/" in line]
    assert "  ... 4 more" in lines


def test_bad_input_is_one_line_and_exit_code_2(run: Path, tmp_path: Path) -> None:
    """Behavior: no trace, no endpoint, no address: each is one message, and no traceback."""
    (tmp_path / "empty").mkdir()
    for folder, url, message in (
        (
            tmp_path / "empty",
            "http://localhost:1",
            "trace.jsonl does not exist; a run writes it unless tracing was off",
        ),
        (run, "http://127.0.0.1:1", "http://127.0.0.1:1/v1/traces cannot be reached"),
        (run, "localhost:4318", "otlp='localhost:4318' is not an http(s) address"),
    ):
        result = replay(folder, url)
        assert 2 == result.exit_code
        assert message in result.output
        assert 1 == len(result.output.splitlines())


def test_a_long_replay_shows_a_bar(run: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: on a terminal a bar is drawn once the work takes long, over all spans; into a pipe nothing is."""
    drawn, shown, start, deliver = threading.Event(), [], Progress.start, send.replay

    def started(progress: Progress) -> None:
        shown.append(progress)
        start(progress)
        drawn.set()

    def after_the_bar(path: Path, url: str, **options: Any) -> send.Delivery:
        assert drawn.wait(10)
        return deliver(path, url, **options)

    monkeypatch.setattr(Progress, "start", started)
    monkeypatch.setattr("andon.cli.bar.BAR_AFTER_SECONDS", 0.0)
    assert replay(run, server.url).output.startswith(f"{server.url} accepted")
    assert [] == shown
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setattr(send, "replay", after_the_bar)
    monkeypatch.setattr(send, "REQUEST_BYTES", 1)  # so that the bar hears of each line
    assert 0 == replay(run, server.url, "--again").exit_code
    (bar,) = shown
    assert bar.tasks[0].completed == bar.tasks[0].total == len(read_spans(run / "trace.jsonl").spans)
    assert not bar.live.is_started
