"""`andon trace replay`."""

from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from rich.progress import Progress

from andon.cli.main import cli
from andon.tracing import jaeger
from andon.tracing.read import parse_line
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
    """Behavior: on a terminal a bar is drawn once the work has taken two seconds; into a pipe nothing is."""
    drawn, start = [], Progress.start

    def started(progress: Progress) -> None:
        drawn.append(progress)
        start(progress)

    monkeypatch.setattr(Progress, "start", started)
    replay(run, server.url)
    assert [] == drawn
    monkeypatch.setattr("andon.cli.trace.BAR_AFTER_SECONDS", 0.0)
    assert replay(run, server.url, "--again").output.startswith(f"{server.url} accepted")
    assert [] == drawn
    monkeypatch.setattr(Console, "is_terminal", True)
    assert 0 == replay(run, server.url, "--again").exit_code
    assert drawn
    assert not any(progress.live.is_started for progress in drawn)
