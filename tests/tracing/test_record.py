"""What a run leaves on disk, and that recording never changes the run."""

import random
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as global_trace

from andon.tracing import send
from andon.tracing.errors import TraceError
from andon.tracing.lines import complete_lines
from andon.tracing.notes import sent_file
from andon.tracing.read import RecordedSpan, read_spans
from andon.tracing.record import Trace, open_trace
from andon.tracing.send import replay
from tests.otlp import endpoint

pytestmark = pytest.mark.tier2
PHASES = ("data", "forward", "backward", "clip", "optimizer")


def steps(trace: Trace, first: int, last: int) -> Iterator[int]:
    """Steps as a training loop records them; yields after each."""
    for step in range(first, last + 1):
        with trace.span("train.step", step=step):
            for phase in PHASES:
                with trace.span(phase):
                    pass
        yield step


def record(path: Path, count: int, **options: Any) -> Trace:
    """A run of `count` steps; the trace as it is after the run."""
    with open_trace(path, "run-1", {"model.parameters": 42}, **options) as trace:
        for _ in steps(trace, 1, count):
            pass
    return trace


def named(spans: list[RecordedSpan], name: str) -> list[RecordedSpan]:
    """The spans of that name, in the order written."""
    return [span for span in spans if span.name == name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the trace lies."""
    return tmp_path / "trace.jsonl"


def test_layout(path: Path) -> None:
    """Behavior: a start, one trace per window of steps with the steps' phases below them, and an end that counts."""
    record(path, 5, window_steps=2)
    spans, torn = read_spans(path)
    by_id = {span.span_id: span for span in spans}
    (start,), (end,) = named(spans, "train run start"), named(spans, "train run end")
    windows, steps_ = named(spans, "train window"), named(spans, "train.step")

    assert 0 == torn
    assert start.attributes == {"train.run.id": "run-1", "model.parameters": 42}
    assert [""] * 5 == [root.parent_id for root in (start, end, *windows)]
    assert 5 == len({root.trace_id for root in (start, end, *windows)})
    assert [2, 2, 1] == [window.attributes["train.window.steps"] for window in windows]
    assert [0, 1, 2] == [window.attributes["train.window.index"] for window in windows]
    assert {"run-1"} == {window.attributes["train.run.id"] for window in windows}
    assert [1, 2, 3, 4, 5] == [step.attributes["train.step"] for step in steps_]
    assert [windows[index].span_id for index in (0, 0, 1, 1, 2)] == [step.parent_id for step in steps_]
    for phase in PHASES:
        parents = [by_id[span.parent_id] for span in named(spans, phase)]
        assert steps_ == parents
    assert all(by_id[span.parent_id].trace_id == span.trace_id for span in spans if span.parent_id)
    expected = {f"train.run.expected.{what}": count for what, count in (("steps", 5), ("windows", 3), ("spans", 40))}
    assert {"train.run.id": "run-1", **expected} == end.attributes
    assert 40 == len(spans)
    assert 5 == len(named(spans, "between steps"))


def test_the_end_links_to_the_windows(path: Path) -> None:
    """Behavior: the run's end links to each window; no window has a link, as Jaeger then finds no critical path."""
    record(path, 4, window_steps=2)
    spans, _ = read_spans(path)
    start, first, second, end = (
        (span.trace_id, span.span_id)
        for name in ("train run start", "train window", "train run end")
        for span in named(spans, name)
    )
    links = {(span.trace_id, span.span_id): span.links for span in spans}
    assert [] == links[start] == links[first] == links[second]
    assert [first, second] == links[end]


def test_spans_beside_steps_stay_in_their_window(path: Path) -> None:
    """Behavior: validation after a window's last step belongs to that window, in the time after its step."""
    with open_trace(path, "run-1", {}, window_steps=2) as trace:
        for step in steps(trace, 1, 3):
            if step == 2:
                with trace.span("validation"):
                    pass
    spans, _ = read_spans(path)
    first, second = named(spans, "train window")
    (_, between, _), (validation,) = named(spans, "between steps"), named(spans, "validation")
    assert (between.span_id, first.span_id) == (validation.parent_id, between.parent_id)
    assert between.start <= validation.start <= validation.end <= between.end
    assert [first.span_id, first.span_id, second.span_id] == [span.parent_id for span in named(spans, "train.step")]


def test_times_are_real(path: Path) -> None:
    """Behavior: a span begins and ends when its block did, on the machine's clock, and within its parent."""
    with open_trace(path, "run-1", {}) as trace, trace.span("train.step", step=1):
        before = time.time_ns()
        with trace.span("forward"):
            inside = time.time_ns()
            sum(range(200_000))
            still_inside = time.time_ns()
        after = time.time_ns()
    spans, _ = read_spans(path)
    (forward,), (step,) = named(spans, "forward"), named(spans, "train.step")
    assert before <= forward.start <= inside
    assert still_inside <= forward.end <= after
    assert step.start <= forward.start
    assert forward.end <= step.end


def test_a_finished_step_is_on_disk_before_the_next(path: Path) -> None:
    """Behavior: after each step the file holds all its spans, in one more line."""
    with open_trace(path, "run-1", {}) as trace:
        for step in steps(trace, 1, 3):
            spans, torn = read_spans(path)
            assert step == len(named(spans, "train.step")) == len(named(spans, "optimizer"))
            assert 1 + step == sum(1 for _ in complete_lines(path))
            assert 0 == torn


def test_names_follow_the_semantic_conventions(path: Path) -> None:
    """Reference: OpenTelemetry semantic conventions 1.44, resource and code attributes."""
    record(path, 1, service_version="1.2.3")
    spans, _ = read_spans(path)
    (resource,) = {tuple(sorted(span.resource)) for span in spans}
    assert {"service.name": "andon", "service.version": "1.2.3", "train.run.id": "run-1"}.items() <= (
        spans[0].resource.items()
    )
    assert (
        "process.runtime.name",
        "process.runtime.version",
        "service.instance.id",
        "service.name",
        "service.version",
        "telemetry.sdk.language",
        "telemetry.sdk.name",
        "telemetry.sdk.version",
        "train.run.id",
    ) == resource
    (step,) = named(spans, "train.step")
    code = {key: value for key, value in step.attributes.items() if key.startswith("code.")}
    assert {"code.function.name", "code.file.path", "code.line.number"} == code.keys()
    assert code["code.function.name"].endswith(".steps")
    assert code["code.file.path"].endswith("test_record.py")
    assert b'"schemaUrl":"https://opentelemetry.io/schemas/1.44.0"' in path.read_bytes()


def test_nothing_private_is_recorded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: neither the environment, nor an exception's text, nor an absolute path reaches the file."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "secret.key=hunter2")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "hunter2")
    with (
        pytest.raises(ValueError, match="hunter2"),
        open_trace(path, "run-1", {}) as trace,
        trace.span("train.step", step=1),
    ):
        raise ValueError("hunter2")
    written = path.read_text()
    assert "hunter2" not in written
    assert "Traceback" not in written
    assert str(Path(__file__).parent) not in written
    assert str(path.parent) not in written


def test_a_failing_step_is_marked(path: Path) -> None:
    """Behavior: what raised, its window and the run's end carry the error's type; the error passes through."""
    with (
        pytest.raises(ZeroDivisionError),
        open_trace(path, "run-1", {}) as trace,
        trace.span("train.step", step=2),
        trace.span("forward"),
    ):
        raise ZeroDivisionError
    spans, _ = read_spans(path)
    assert ["forward", "train.step", "train window", "train run end"] == [span.name for span in spans if span.failed]
    assert {"ZeroDivisionError"} == {span.attributes["error.type"] for span in spans if span.failed}


def test_two_traces_do_not_mix(tmp_path: Path) -> None:
    """Behavior: two runs recorded side by side, one span opened inside the other's, each have a file of their own."""
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    with (
        open_trace(one, "one", {}) as first,
        open_trace(two, "two", {}) as second,
        first.span("train.step", step=1),
        second.span("train.step", step=1),
        first.span("data"),
    ):
        pass
    for path, run, names in (
        (one, "one", ["train run start", "data", "train.step", "between steps", "train window", "train run end"]),
        (two, "two", ["train run start", "train.step", "between steps", "train window", "train run end"]),
    ):
        spans, _ = read_spans(path)
        assert names == [span.name for span in spans]
        assert {run} == {span.resource["train.run.id"] for span in spans}
        assert {span.span_id for span in spans} >= {span.parent_id for span in spans if span.parent_id}


def test_the_global_tracer_provider_is_left_alone(path: Path) -> None:
    """Behavior: a program's own OpenTelemetry set-up is neither used nor replaced."""
    before = global_trace._TRACER_PROVIDER
    record(path, 1)
    assert before is global_trace._TRACER_PROVIDER


def test_recording_draws_nothing_from_the_seeded_generator(tmp_path: Path) -> None:
    """Behavior: ids do not come from `random`, so training draws the same numbers and equal seeds share no id."""
    ids = []
    for name in ("one", "two"):
        random.seed(0)
        record(tmp_path / name, 1)
        ids += [span.span_id for span in read_spans(tmp_path / name).spans]
        drawn = random.random()
    random.seed(0)
    assert drawn == random.random()
    assert len(set(ids)) == len(ids)


def test_a_resumed_run_appends(path: Path) -> None:
    """Behavior: the second session leaves the first one's lines as they are and adds its own under the same run."""
    record(path, 2)
    first = path.read_bytes()
    trace = record(path, 1)
    spans, _ = read_spans(path)
    assert path.read_bytes().startswith(first)
    assert [] == trace.notes
    assert 2 == len(named(spans, "train run start")) == len(named(spans, "train run end"))
    assert 2 == len({span.resource["service.instance.id"] for span in spans})


def test_a_torn_line_is_cut_off_and_said(path: Path) -> None:
    """Behavior: a line the last session did not finish does not swallow the next session's first."""
    record(path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"resourceSpans":[{"reso')
    assert 24 == read_spans(path).torn_bytes
    trace = record(path, 1)
    assert path.read_bytes().startswith(whole)
    assert 2 * 10 == len(read_spans(path).spans)
    assert ["trace.jsonl ended in a torn line of 24 bytes, which was cut off"] == trace.notes


def test_a_full_disk_ends_the_trace_and_not_the_run(path: Path) -> None:
    """Behavior: the file keeps whole lines only, the run goes on, and what is missing is counted."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))  # stands in for a full disk
    try:
        with open_trace(path, "run-1", {}) as trace:
            for step in range(30):
                with trace.span("train.step", step=step):
                    pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    spans, torn = read_spans(path)
    assert [f"{63 - len(spans)} spans could not be written to the trace: [Errno 27] File too large"] == trace.notes
    assert 0 == torn
    assert 5 < len(spans) < 60


def test_live_delivery(path: Path) -> None:
    """Behavior: with an endpoint named, all spans arrive there as they are written, and a replay has nothing left."""
    with endpoint() as server:
        trace = record(path, 3, otlp=server.url)
        assert read_spans(path).spans == server.spans
        assert [] == trace.notes
        assert (0, 0) == replay(path, server.url)[:2]


def test_a_dead_endpoint_costs_nothing_and_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: an endpoint that takes connections and never answers holds the run's end for CLOSE_SECONDS only."""
    monkeypatch.setattr(send, "CLOSE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        trace = record(path, 3, otlp=url)
        seconds = time.monotonic() - begun
    assert 24 == len(read_spans(path).spans)
    assert [
        f"24 spans did not reach {url}/v1/traces (0.1 s were not enough); `andon trace replay` sends them from the file"
    ] == (trace.notes)
    assert seconds < 2


def test_an_endpoint_that_refuses_is_said_and_made_up_for(path: Path) -> None:
    """Behavior: what did not arrive is counted with the reason, and a replay delivers exactly that."""
    with endpoint() as server:
        server.fail_after = 0
        trace = record(path, 3, otlp=server.url)
        (note,) = trace.notes
        assert note.startswith(f"{24 - len(server.spans)} spans did not reach {server.url}/v1/traces (")
        assert "HTTP 503" in note
        assert "come back later" in note
        server.fail_after = None
        replay(path, server.url)
        assert read_spans(path).spans == server.spans


def test_spans_that_an_endpoint_rejects_are_said(path: Path) -> None:
    """Behavior: how many, whose endpoint, and its reason."""
    with endpoint() as server:
        server.answer = b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}'
        (note,) = record(path, 1, otlp=server.url).notes
    assert f"{server.url}/v1/traces rejected {2 * len(server.lines)} spans: too old" == note


def test_damaged_notes_of_what_was_sent_are_said(path: Path) -> None:
    """Behavior: the run ends well, and its note names the file."""
    with endpoint() as server:
        sent_file(path).write_text("no notes")
        (note,) = record(path, 1, otlp=server.url).notes
        assert note.startswith(f"{sent_file(path)}")
        assert [] == server.lines


def test_a_bad_address_is_refused_before_anything_is_written(path: Path) -> None:
    """Behavior: `otlp` without http:// is one clear error, and no file appears."""
    with pytest.raises(TraceError, match=r"otlp='localhost:4318' is not an http\(s\) address"):
        record(path, 1, otlp="localhost:4318")
    assert not path.exists()


def test_the_sender_ends_with_the_trace(path: Path) -> None:
    """Behavior: no thread is left behind after a delivered run."""
    with endpoint() as server:
        record(path, 1, otlp=server.url)
    assert "otlp-sender" not in {thread.name for thread in threading.enumerate()}
