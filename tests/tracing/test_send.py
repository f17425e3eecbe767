"""Delivering recorded lines to an endpoint, once each."""

import json
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from andon.tracing.read import TraceError
from andon.tracing.send import Delivery, count_spans, replay, sent_file, sent_offset, undelivered
from tests.otlp import Endpoint
from tests.otlp import endpoint as running

pytestmark = pytest.mark.tier2


def line(*names: str) -> bytes:
    """A recorded line with one span a name."""
    spans = [
        {
            "traceId": "0af7651916cd43dd8448eb211c80319c",
            "spanId": f"{number:016x}",
            "name": name,
            "startTimeUnixNano": "1",
            "endTimeUnixNano": "2",
        }
        for number, name in enumerate(names, start=1)
    ]
    request = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": spans}]}]}
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"


LINES = [line("one"), line("two", "three"), line("four")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the trace lies."""
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


@pytest.fixture
def server() -> Generator[Endpoint, None, None]:
    """A running endpoint."""
    with running() as server:
        yield server


def test_every_line_is_posted_as_recorded(path: Path, server: Endpoint) -> None:
    """Behavior: each line goes to /v1/traces as JSON, byte for byte, in order; the count is of spans."""
    heard: list[int] = []
    assert Delivery(4, 0) == replay(path, server.url, progress=heard.append)
    assert LINES == server.lines
    assert ["/v1/traces"] * 3 == server.paths
    assert {"application/json"} == {headers["Content-Type"] for headers in server.headers}
    assert [1, 2, 1] == heard


@pytest.mark.parametrize("ending", ["", "/", "/v1/traces", "/v1/traces/"])
def test_the_address_may_name_the_path(path: Path, server: Endpoint, ending: str) -> None:
    """Behavior: an endpoint's address is the same with /v1/traces and without, also for what was sent before."""
    assert 4 == replay(path, server.url + ending).accepted
    assert ["/v1/traces"] * 3 == server.paths
    assert 0 == replay(path, server.url).accepted


def test_nothing_is_sent_twice_unless_asked(path: Path, server: Endpoint) -> None:
    """Behavior: a second replay sends only what was recorded since; `again` sends everything."""
    replay(path, server.url)
    assert Delivery(0, 0) == replay(path, server.url)
    with path.open("ab") as file:
        file.write(LINES[0])
    assert Delivery(1, 0) == replay(path, server.url)
    assert [*LINES, LINES[0]] == server.lines
    assert Delivery(5, 0) == replay(path, server.url, again=True)


def test_each_endpoint_has_its_own_place(path: Path, server: Endpoint) -> None:
    """Behavior: what one endpoint took is still waiting for another."""
    with running() as other:
        replay(path, server.url)
        assert (0, 4) == (undelivered(path, server.url), undelivered(path, other.url))
        assert 4 == replay(path, other.url).accepted
        assert 0 == undelivered(path, server.url)


def test_an_interrupted_replay_goes_on_where_it_stopped(path: Path, server: Endpoint) -> None:
    """Behavior: the endpoint's refusal is an error with its words; the next replay sends the rest alone."""
    server.fail_after = 1
    with pytest.raises(TraceError, match="answered HTTP 503 Service Unavailable: come back later"):
        replay(path, server.url)
    server.fail_after = None
    assert Delivery(3, 0) == replay(path, server.url)
    assert LINES == server.lines


def test_a_partial_success_is_counted(path: Path, server: Endpoint) -> None:
    """Reference: OTLP/HTTP, partialSuccess, whose 64-bit count is a string in JSON."""
    server.answer = b'{"partialSuccess":{"rejectedSpans":"1","errorMessage":"too old"}}'
    assert Delivery(1, 3, "too old") == replay(path, server.url)


@pytest.mark.parametrize("answer", [b"{}", b'{"partialSuccess":{}}', b'{"partialSuccess":null}'])
def test_the_forms_of_full_success(path: Path, server: Endpoint, answer: bytes) -> None:
    """Reference: OTLP/HTTP, full success; null is what servers built on pydantic send."""
    server.answer = answer
    assert Delivery(4, 0) == replay(path, server.url)


def test_an_empty_answer_in_protobuf(path: Path, server: Endpoint) -> None:
    """Reference: protobuf's empty message has no bytes; MLflow 3 gives this answer to JSON."""
    server.answer, server.content_type = b"", "application/x-protobuf"
    assert Delivery(4, 0) == replay(path, server.url)


@pytest.mark.parametrize("answer", [b"<!doctype html>", b"", b"[]", b'{"partialSuccess":{"rejectedSpans":"?"}}'])
def test_what_is_not_an_otlp_endpoint(path: Path, server: Endpoint, answer: bytes) -> None:
    """Behavior: status 200 with anything but OTLP's answer is refused, and nothing counts as sent."""
    server.answer = answer
    with pytest.raises(TraceError, match="is not an OTLP endpoint"):
        replay(path, server.url)
    assert 4 == undelivered(path, server.url)


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_any_other_status_is_an_error(path: Path, server: Endpoint, status: int) -> None:
    """Behavior: neither a redirect nor an error status passes for success."""
    server.status = status
    with pytest.raises(TraceError, match=f"/v1/traces answered HTTP {status}"):
        replay(path, server.url)
    assert 4 == undelivered(path, server.url)


def test_an_endpoint_that_is_not_there(path: Path) -> None:
    """Behavior: the error names the address and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as socket_:
        port = socket_.getsockname()[1]
    with pytest.raises(TraceError, match=rf"127.0.0.1:{port}/v1/traces cannot be reached .*; start it"):
        replay(path, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://localhost", "http://", "file:///etc/passwd", ""])
def test_what_is_not_an_address(path: Path, url: str) -> None:
    """Behavior: only http(s) addresses with a host are posted to."""
    with pytest.raises(TraceError, match=r"is not an http\(s\) address"):
        replay(path, url)


def test_headers_of_the_users_environment(path: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: OTLP exporter specification, OTEL_EXPORTER_OTLP_HEADERS, with percent-encoded values."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-mlflow-experiment-id=3, authorization=Bearer%20abc")
    replay(path, server.url)
    sent = {key.lower(): value for key, value in server.headers[0].items()}
    assert ("3", "Bearer abc") == (sent["x-mlflow-experiment-id"], sent["authorization"])


def test_this_machine_is_reached_without_the_proxy(
    path: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: a proxy set for the outside world is not asked about a port of this machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert 4 == replay(path, server.url).accepted


def test_an_unfinished_line_waits(path: Path, server: Endpoint) -> None:
    """Behavior: a line still being written is not sent; once whole it is."""
    path.write_bytes(LINES[0] + LINES[1][:50])
    assert 1 == replay(path, server.url).accepted
    path.write_bytes(LINES[0] + LINES[1])
    assert 2 == replay(path, server.url).accepted


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ("{", "is damaged .* delete it"),
        ("[]", "is damaged .* delete it"),
        ('{"http://127.0.0.1:4318/v1/traces":99999}', "99999 bytes were sent, beyond the end"),
        ('{"http://127.0.0.1:4318/v1/traces":-1}', "-1 bytes were sent"),
    ],
)
def test_damaged_notes_are_refused(path: Path, notes: str, message: str) -> None:
    """Behavior: a note of what was sent that cannot be true names its file and the way out."""
    sent_file(path).write_text(notes)
    with pytest.raises(TraceError, match=rf"trace\.jsonl\.sent\.json.*{message}"):
        replay(path, "http://127.0.0.1:4318")


def test_a_note_without_its_trace_is_refused(path: Path) -> None:
    """Behavior: where the trace is gone, a note of what was sent of it names the way out, and nothing is counted."""
    sent_file(path).write_text('{"http://127.0.0.1:4318/v1/traces": 7}')
    path.unlink()
    with pytest.raises(TraceError, match="7 bytes were sent, beyond the end"):
        sent_offset(path, "http://127.0.0.1:4318")
    with pytest.raises(TraceError, match="does not exist; a run writes it"):
        undelivered(path, "http://127.0.0.1:4318")


def test_spans_are_counted_by_key_and_not_by_text() -> None:
    """Behavior: a name that looks like the key counts once, as the span it names."""
    assert [1, 2] == [count_spans(line('"startTimeUnixNano":')), count_spans(LINES[1])]


def test_a_trace_that_is_not_there_is_named(path: Path) -> None:
    """Behavior: the message says what would have written it."""
    with pytest.raises(TraceError, match=r"none\.jsonl does not exist; a run writes it unless tracing was off"):
        replay(path.with_name("none.jsonl"), "http://localhost:4318")
