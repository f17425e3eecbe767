"""What a span says, and that it is what OpenTelemetry's own SDK and protocol would have."""

import contextlib
import gc
import json
import sys
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.json.file import FileSpanExporter
from opentelemetry.proto_json.collector.trace.v1.trace_service import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from andon.tracing import encode, lines, record, spans
from andon.tracing.adapter import StepSpans
from andon.tracing.conventions import SCHEMA, code_attributes
from andon.tracing.lines import complete_lines
from andon.tracing.read import RecordedSpan, read_spans
from andon.tracing.record import Trace, open_trace
from tests.tracing.test_record import named, steps

pytestmark = pytest.mark.tier2

MEASURED = {"train.cpu_seconds", "train.major_faults", "train.peak_bytes", "train.gc_seconds"}
ANY = {"traceId": "", "spanId": "", "parentSpanId": "", "startTimeUnixNano": "", "endTimeUnixNano": ""}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the trace lies."""
    return tmp_path / "trace.jsonl"


def raw(path: Path) -> list[dict[str, Any]]:
    """The spans of a file in OTLP's JSON."""
    requests = [json.loads(line) for _, line in complete_lines(path)]
    scopes = [scope for request in requests for each in request["resourceSpans"] for scope in each["scopeSpans"]]
    return [span for scope in scopes for span in scope["spans"]]


def comparable(span: dict[str, Any]) -> dict[str, Any]:
    """A span without ids, times and what was measured."""
    kept = [each for each in span.get("attributes", []) if each["key"] not in MEASURED]
    happened = [event | {"timeUnixNano": ""} for event in span.get("events", [])]
    links = [link | {"traceId": "", "spanId": ""} for link in span.get("links", [])]
    extra = {"events": happened} if happened else {}
    return (
        span
        | {key: "" for key in ANY if key in span}
        | {"attributes": kept}
        | extra
        | ({"links": links} if links else {})
    )


class WithSdk:
    """The same loop's spans by the SDK, written by its file exporter."""

    def __init__(self, tracer: Tracer, root: Span) -> None:
        self.tracer, self.open = tracer, [root]

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Generator[Span]:
        """As `Trace.span`."""
        context = set_span_in_context(self.open[-1])
        given = {f"train.{key}": value for key, value in attributes.items()}
        span = self.tracer.start_span(name, context, attributes=given)
        self.open.append(span)
        try:
            yield span
        except ZeroDivisionError:
            span.set_attribute("error.type", "ZeroDivisionError")
            span.add_event("exception", {"exception.type": "ZeroDivisionError"})
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            self.open.pop()
            span.end()


def loop(trace: Any) -> None:
    """Steps with phases of every type of attribute, the last one of which fails."""
    for step in (1, 2, -3):
        values = {"loss": float("nan"), "rate": 1e-300, "most": float("inf"), "least": -float("inf"), "third": 1 / 3}
        with trace.span("train.step", step=step, **values):
            with trace.span("forward", text='"quoted" \n ümläut \U0001f600', large=2**62):
                pass
            with trace.span("backward", skipped=step < 0):
                if step < 0:
                    raise ZeroDivisionError


def test_spans_equal_those_of_the_sdk(path: Path, tmp_path: Path) -> None:
    """Reference: the same loop through OpenTelemetry's SDK and file exporter: equal but for ids, times, measures."""
    with pytest.raises(ZeroDivisionError), open_trace(path, "run-1", {}) as trace:
        loop(trace)
    other = tmp_path / "sdk.jsonl"
    provider = TracerProvider(resource=Resource({}), shutdown_on_exit=False)
    exporter = FileSpanExporter(other)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("andon.tracing", schema_url=SCHEMA)
    root = tracer.start_span("train window")
    with pytest.raises(ZeroDivisionError):
        loop(WithSdk(tracer, root))  # ty: ignore[invalid-argument-type]
    provider.shutdown()
    names = ("train.step", "forward", "backward")
    ours = [comparable(span) for span in raw(path) if span["name"] in names]
    theirs = [comparable(span) for span in raw(other)]
    code = {"code.function.name", "code.file.path", "code.line.number"}
    for span in ours:
        span["attributes"] = [each for each in span["attributes"] if each["key"] not in code]
    assert 9 == len(ours)
    assert theirs == ours


def test_every_line_is_of_the_protocol(path: Path) -> None:
    """Reference: opentelemetry-proto's JSON codec reads each line and writes it again as it was."""
    with contextlib.suppress(ZeroDivisionError), open_trace(path, "run", {"a": 1, "b": 0.5, "c": True}) as trace:
        trace.finding("train.stall", step=1, ratio=3.5)
        loop(trace)
    written = [line for _, line in complete_lines(path)]
    assert 5 <= len(written)
    for line in written:
        assert json.loads(line) == ExportTraceServiceRequest.from_dict(json.loads(line)).to_dict()
        for span in parsed(line):
            assert (16, 8) == tuple(len(bytes.fromhex(span[key])) for key in ("traceId", "spanId"))
            assert span["startTimeUnixNano"].isdecimal()
            assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])


def parsed(line: bytes) -> list[dict[str, Any]]:
    """The spans of one line in OTLP's JSON."""
    return json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"]


def assert_valid(recorded: list[RecordedSpan]) -> None:
    """Children lie inside their parents, siblings are 2 us apart, a window has at most 2,000 spans."""
    by_id = {span.span_id: span for span in recorded}
    children: dict[str, list[RecordedSpan]] = {}
    for span in recorded:
        if span.parent_id:
            parent = by_id[span.parent_id]
            assert parent.start <= span.start <= span.end <= parent.end, (span, parent)
            assert parent.trace_id == span.trace_id
            children.setdefault(span.parent_id, []).append(span)
    for siblings in children.values():
        ordered = sorted(siblings, key=lambda span: span.start)
        assert all(one.end + 2_000 <= two.start for one, two in pairwise(ordered))
    traces = [span.trace_id for span in recorded]
    assert max(traces.count(trace) for trace in set(traces)) <= 2_000


def test_children_lie_inside_and_siblings_apart(path: Path) -> None:
    """Behavior: also where a step takes no time, has many spans, and garbage is collected in it."""
    with open_trace(path, "run-1", {}) as trace:
        for step in steps(trace, 1, 150):
            with trace.span("logging"):
                pass
            if step % 50 == 0:
                with trace.span("validation"):
                    gc.collect()
        for step in range(4):
            with trace.span("train.step", step=step):
                for _ in range(700):
                    with trace.span("forward"):
                        pass
    recorded, _ = read_spans(path)
    assert_valid(recorded)
    windows = named(recorded, "train window")
    assert [100, 52, 2] == [window.attributes["train.window.steps"] for window in windows]


def test_each_thread_has_its_own_spans(path: Path) -> None:
    """Behavior: a second thread's span lies below the window, not below the first thread's step, which waits for it."""
    inside, go_on = threading.Event(), threading.Event()

    def load(trace: Trace) -> None:
        with trace.span("load"):
            with trace.span("read"):
                inside.set()
            go_on.wait()

    with open_trace(path, "run-1", {}, window_steps=1) as trace:
        thread = threading.Thread(target=load, args=(trace,))
        with trace.span("train.step", step=1):
            thread.start()
            inside.wait()
            with trace.span("forward"):
                pass
        with trace.span("train.step", step=2):
            go_on.set()
            thread.join()
    recorded, _ = read_spans(path)
    first, second = sorted(named(recorded, "train window"), key=lambda span: span.start)
    (load_,), (read,), (forward,) = (named(recorded, name) for name in ("load", "read", "forward"))
    one, two = named(recorded, "train.step")
    assert (first.span_id, load_.span_id, one.span_id) == (load_.parent_id, read.parent_id, forward.parent_id)
    assert (first.span_id, second.span_id) == (one.parent_id, two.parent_id)
    assert first.end >= load_.end > two.start


@contextmanager
def wrapped(trace: Trace, name: str) -> Generator[None]:
    """A wrapper as a training loop has them."""
    with trace.span(name):
        yield


def test_a_span_names_its_with(path: Path) -> None:
    """Behavior: function and line are those of the `with`, through any number of wrappers."""
    with open_trace(path, "run-1", {}) as trace:
        with wrapped(trace, "wrapped"):
            line = sys._getframe().f_lineno - 1
        with trace.span("plain"):
            pass
    recorded, _ = read_spans(path)
    for name, expected in (("wrapped", line), ("plain", line + 2)):
        (span,) = named(recorded, name)
        assert ("tests.tracing.test_spans.test_a_span_names_its_with", expected) == (
            span.attributes["code.function.name"],
            span.attributes["code.line.number"],
        )
        assert "tests/tracing/test_spans.py" == span.attributes["code.file.path"]
    assert code_attributes(test_a_span_names_its_with.__code__, "a.b", 1)["code.file.path"] == "tracing/test_spans.py"


def test_what_a_step_took_of_the_machine(path: Path) -> None:
    """Behavior: processor seconds of all threads (of a phase, too), major faults, peak memory, garbage collection."""
    with open_trace(path, "run-1", {}) as trace:
        with trace.span("train.step", step=1, peak_bytes=7), trace.span("forward"):
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
            gc.collect()
        with trace.span("train.step", step=2):
            time.sleep(0.05)
    recorded, _ = read_spans(path)
    busy, idle = named(recorded, "train.step")
    assert 0.05 <= named(recorded, "forward")[0].attributes["train.cpu_seconds"] <= busy.attributes["train.cpu_seconds"]
    assert idle.attributes["train.cpu_seconds"] < 0.04
    assert 7 == busy.attributes["train.peak_bytes"] < 1e6 < idle.attributes["train.peak_bytes"] < 1e12
    assert 0 < busy.attributes["train.gc_seconds"]
    assert "train.gc_seconds" not in idle.attributes
    assert 0 <= idle.attributes["train.major_faults"]


def test_a_long_collection_is_a_span(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: below what it interrupted; a short one is in the step's seconds alone."""
    with open_trace(path, "run-1", {}) as trace:
        for limit in (0, 10**12):
            monkeypatch.setattr(record, "LONG_COLLECTION_NS", limit)
            with trace.span("train.step", step=1), trace.span("forward"):
                gc.collect()
    recorded, _ = read_spans(path)
    forward, _ = named(recorded, "forward")
    assert {forward.span_id} == {span.parent_id for span in named(recorded, "gc")}
    assert_valid(recorded)
    assert record.LONG_COLLECTION_NS != spans.LONG_COLLECTION_NS


def test_a_window_sums_up_its_steps(path: Path) -> None:
    """Behavior: first and last step, median, slowest, last finding, for a search by tag; events are kept."""
    with open_trace(path, "run-1", {}) as trace:
        for step in range(7, 10):
            with trace.span("train.step", step=step):
                trace.clock.offset += (30 if step == 8 else 1) * 10**9
                if step == 9:
                    trace.finding("train.stall", ratio=3.0)
        trace.finding("train.skipped", step=9)
    recorded, _ = read_spans(path)
    (window,), step_spans = named(recorded, "train window"), named(recorded, "train.step")
    said = {key.removeprefix("train.window."): value for key, value in window.attributes.items()}
    assert (3, 7, 9, 8) == tuple(said[key] for key in ("steps", "first_step", "last_step", "slowest_step"))
    assert 30 <= said["slowest_seconds"] == pytest.approx((step_spans[1].end - step_spans[1].start) / 1e9)
    assert 1 <= said["median_seconds"] < 30
    assert "train.skipped" == said["train.finding"]
    assert [("train.stall", {"train.ratio": 3.0})] == [(event.name, event.attributes) for event in step_spans[2].events]
    assert ["train.skipped"] == [event.name for event in named(recorded, "between steps")[-1].events]


@pytest.mark.parametrize(
    ("given", "links"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 1),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", 0),
        ("garbage", 0),
        ("", 0),
    ],
)
def test_the_start_links_to_what_started_the_process(
    path: Path, monkeypatch: pytest.MonkeyPatch, given: str, links: int
) -> None:
    """Reference: W3C Trace Context, traceparent; one that is not valid is ignored."""
    monkeypatch.setenv("TRACEPARENT", given)
    with open_trace(path, "run-1", {}):
        pass
    start = read_spans(path).spans[0]
    assert [("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")] * links == start.links


def test_each_rank_has_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: under torchrun every process but the first writes a file named by its rank, under one run id."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with open_trace(path, "run-1", {}):
            pass
    files = (path, path.with_name("trace.rank1.jsonl"))
    assert [(0, "run-1"), (1, "run-1")] == [
        (span.resource["train.rank"], span.resource["train.run.id"])
        for span in (read_spans(file).spans[0] for file in files)
    ]


def test_closed_segments_are_compressed_and_read_as_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a full file is closed under a number and compressed; readers see all lines, from any offset."""
    monkeypatch.setattr(lines, "SEGMENT_BYTES", 20_000)
    with open_trace(path, "run-1", {}) as trace:
        for _ in steps(trace, 1, 40):
            pass
    for thread in [each for each in threading.enumerate() if each.name == "trace-compressor"]:
        thread.join()
    closed = sorted(each.name for each in path.parent.glob("trace.0*"))
    assert 3 < len(closed)
    assert {".gz"} == {name[-3:] for name in closed}
    recorded, torn = read_spans(path)
    assert (list(range(1, 41)), 0) == ([span.attributes["train.step"] for span in named(recorded, "train.step")], torn)
    everything = list(complete_lines(path))
    assert everything[-1][0] == lines.total_bytes(path) == sum(len(line) for _, line in everything)
    for at in (1, 17, len(everything) - 1):
        assert everything[at:] == list(complete_lines(path, everything[at - 1][0]))


def test_a_programs_own_spans_lie_below_the_step(path: Path) -> None:
    """Behavior: spans of OpenTelemetry's API, nested as they are, in the window's trace; one outlives its step."""
    provider = TracerProvider(shutdown_on_exit=False)
    with open_trace(path, "run-1", {}, window_steps=1) as trace:
        provider.add_span_processor(StepSpans(trace))
        tracer = provider.get_tracer("theirs")
        with (
            trace.span("train.step", step=1),
            trace.span("forward"),
            tracer.start_as_current_span("outer", attributes={"n": 1}),
        ):
            tracer.start_span("inner").end()
        with trace.span("train.step", step=2):
            late = tracer.start_span("late")
        with trace.span("train.step", step=3):
            tracer.start_span("later", set_span_in_context(late)).end()
            late.end()
    provider.shutdown()
    recorded, _ = read_spans(path)
    by_name = {span.name: span for span in recorded if span.name in ("outer", "inner", "late", "later", "forward")}
    assert by_name["forward"].span_id == by_name["outer"].parent_id
    assert by_name["outer"].span_id == by_name["inner"].parent_id
    assert {"n": 1} == by_name["outer"].attributes
    second = named(recorded, "train.step")[1]
    assert (second.trace_id, second.span_id) == (by_name["late"].trace_id, by_name["late"].parent_id)
    later = by_name["later"]
    assert (second.trace_id, by_name["late"].span_id) == (later.trace_id, later.parent_id)
    ids = {span.span_id for span in recorded}
    assert all(span.parent_id in ids for span in recorded if span.parent_id)


def test_a_programs_spans_outlive_the_run(path: Path) -> None:
    """Behavior: what began before the run, or begins or ends after it, costs the program nothing and is left out."""
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("program")
    with tracer.start_as_current_span("before"), ExitStack() as later, open_trace(path, "run-1", {}) as trace:
        provider.add_span_processor(StepSpans(trace))
        with trace.span("train.step", step=1), tracer.start_as_current_span("inside"):
            pass
        later.enter_context(tracer.start_as_current_span("goes on"))
        own = later.enter_context(trace.span("goes on, too"))
    with tracer.start_as_current_span("after"):
        pass
    provider.shutdown()
    assert own.end
    names = [span.name for span in read_spans(path).spans]
    assert {"before", "goes on", "goes on, too", "after"}.isdisjoint(names)
    assert 3 == len(trace.trace_ids)  # no window is opened any more
    assert ["train run start", "inside", "train.step", "between steps", "train window", "train run end"] == names


@pytest.mark.parametrize("code", ["", ',{"key":"code.line.number","value":{"intValue":"3"}}'])
def test_a_phase_is_encoded_as_any_span(code: str) -> None:
    """Behavior: the short way for spans that say nothing writes what the long one does."""
    ids, when, name = ("a" * 32, "b" * 16, "c" * 16), (12, 34), encode.named("forward")
    for spent in (0.0, 1e-05, 0.25):
        values = encode.attributes({"train.cpu_seconds": spent}) + code
        assert encode.span(ids, name, when, values) == encode.phase(ids, name, when, spent, code)
