"""Delivering recorded lines to an endpoint, once each."""

import json
import socket
from pathlib import Path

import pytest

from andon.tracing import send
from andon.tracing.endpoint import endpoint
from andon.tracing.errors import TraceError
from andon.tracing.notes import refused_spans, sent_file, sent_offset
from andon.tracing.read import RecordedSpan, parse_line
from andon.tracing.send import Delivery, count_spans, replay, undelivered
from tests.otlp import Endpoint
from tests.otlp import endpoint as running
from tests.tracing.three_lines import LINES, line

pytestmark = pytest.mark.tier2


def recorded(lines: list[bytes]) -> list[RecordedSpan]:
    """The spans of some lines, in order."""
    return [span for line in lines for span in parse_line(line)]


def test_lines_are_posted_as_recorded_in_one_array(path: Path, server: Endpoint) -> None:
    """Behavior: lines go to /v1/traces as one JSON value, with their resourceSpans in order; spans are counted."""
    heard: list[int] = []
    assert Delivery(4, 0) == replay(path, server.url, progress=heard.append)
    assert recorded(LINES) == server.spans
    (request,) = server.lines
    assert json.loads(request)["resourceSpans"] == [json.loads(line)["resourceSpans"][0] for line in LINES]
    assert ["/v1/traces"] == server.paths
    assert {"application/json"} == {headers["Content-Type"] for headers in server.headers}
    assert [4] == heard


def test_a_request_has_a_largest_size_and_the_connection_is_kept(
    path: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: what is beyond REQUEST_BYTES goes in a further request, over the same connection; a long line alone."""
    monkeypatch.setattr(send, "REQUEST_BYTES", len(LINES[0]) + len(LINES[1]))
    assert Delivery(4, 0) == replay(path, server.url)
    assert [3, 1] == [count_spans(request) for request in server.lines]
    monkeypatch.setattr(send, "REQUEST_BYTES", 10)
    replay(path, server.url, again=True)
    assert [1, 2, 1] == [count_spans(request) for request in server.lines[2:]]
    assert 2 == server.connections  # one a replay


def test_a_line_that_another_program_wrote_goes_alone(path: Path, server: Endpoint) -> None:
    """Behavior: a line spelled otherwise than ours is not joined to others, and arrives as it is."""
    other = json.dumps(json.loads(LINES[1])).encode() + b"\n"
    path.write_bytes(LINES[0] + other + LINES[2])
    assert Delivery(4, 0) == replay(path, server.url)
    assert [LINES[0], other, LINES[2]] == server.lines


@pytest.mark.parametrize("ending", ["", "/", "/v1/traces", "/v1/traces/"])
def test_the_address_may_name_the_path(path: Path, server: Endpoint, ending: str) -> None:
    """Behavior: an endpoint's address is the same with /v1/traces and without, also for what was sent before."""
    assert 4 == replay(path, server.url + ending).accepted
    assert ["/v1/traces"] == server.paths
    assert 0 == replay(path, server.url).accepted


def test_nothing_is_sent_twice_unless_asked(path: Path, server: Endpoint) -> None:
    """Behavior: a second replay sends only what was recorded since; `again` sends everything."""
    replay(path, server.url)
    assert Delivery(0, 0) == replay(path, server.url)
    with path.open("ab") as file:
        file.write(LINES[0])
    assert Delivery(1, 0) == replay(path, server.url)
    assert recorded([*LINES, LINES[0]]) == server.spans
    assert Delivery(5, 0) == replay(path, server.url, again=True)


def test_each_endpoint_has_its_own_place(path: Path, server: Endpoint) -> None:
    """Behavior: what one endpoint took is still waiting for another."""
    with running() as other:
        replay(path, server.url)
        assert (0, 4) == (undelivered(path, server.url), undelivered(path, other.url))
        assert 4 == replay(path, other.url).accepted
        assert 0 == undelivered(path, server.url)


def test_an_interrupted_replay_goes_on_where_it_stopped(
    path: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: the endpoint's refusal is an error with its words; the next replay sends the rest alone."""
    monkeypatch.setattr(send, "TRIES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(send, "REQUEST_BYTES", 10)
    server.fail_after = 1
    with pytest.raises(TraceError, match="answered HTTP 503 Service Unavailable: come back later"):
        replay(path, server.url)
    assert 1 + 3 == server.posts  # it was tried again
    server.fail_after = None
    assert Delivery(3, 0) == replay(path, server.url)
    assert LINES == server.lines


def test_a_partial_success_is_counted(path: Path, server: Endpoint) -> None:
    """Reference: OTLP/HTTP, partialSuccess, whose 64-bit count is a string in JSON."""
    server.answer = b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}'
    assert Delivery(1, 3, "too old") == replay(path, server.url)


@pytest.mark.parametrize(("said", "believed"), [("99", 4), ("-1", 0)])
def test_a_count_of_rejected_spans_beyond_those_sent_is_not_believed(
    path: Path, server: Endpoint, said: str, believed: int
) -> None:
    """Behavior: accepted and rejected together are what was sent, whatever the endpoint says."""
    server.answer = f'{{"partialSuccess":{{"rejectedSpans":"{said}"}}}}'.encode()
    assert Delivery(4 - believed, believed) == replay(path, server.url)


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


@pytest.mark.parametrize("status", [302, 400, 401, 404, 413, 500])
def test_what_may_not_be_tried_again_is_counted_and_passed_over(path: Path, server: Endpoint, status: int) -> None:
    """Reference: OTLP/HTTP, "Failures": any status but four means that the data must not be sent again."""
    server.status = status
    delivery = replay(path, server.url)
    assert (0, 4) == delivery[:2]
    assert f"/v1/traces answered HTTP {status}" in delivery.reason
    assert 0 == undelivered(path, server.url)
    assert 4 == refused_spans(path, endpoint(server.url))


@pytest.mark.parametrize("status", [400, 413])
def test_one_poisoned_line_does_not_stop_the_others(path: Path, server: Endpoint, status: int) -> None:
    """Behavior: of the lines that went together, the refused one is found and counted, and all others arrive."""
    server.refuse = lambda body: status * (b'"two"' in body)
    delivery = replay(path, server.url)
    assert (2, 2) == delivery[:2]
    assert recorded([LINES[0], LINES[2]]) == server.spans
    assert 0 == undelivered(path, server.url)


def test_an_endpoint_that_refuses_everything_is_not_asked_line_by_line(
    path: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: once every one of many lines was refused, what follows is refused in the requests that it goes in."""
    monkeypatch.setattr(send, "REQUEST_BYTES", 20 * len(LINES[0]))
    path.write_bytes(LINES[0] * 200)
    server.status = 400
    assert 200 == replay(path, server.url).rejected
    assert 39 + 9 == server.posts  # a tree over the first twenty, then nine requests of twenty


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_be_tried_again_is(path: Path, server: Endpoint, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Reference: OTLP/HTTP, "Retryable Response Codes", after the wait that Retry-After asks for."""
    slept: list[float] = []
    monkeypatch.setattr(send.time, "sleep", slept.append)
    server.refuse = lambda _: status * (server.posts < 3)
    server.retry_after = "7"
    assert Delivery(4, 0) == replay(path, server.url)
    assert [7.0, 7.0] == slept


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
        ('{"http://localhost:4318/v1/traces":99999}', "99999 bytes were sent, beyond the end"),
        ('{"http://localhost:4318/v1/traces":-1}', "-1 bytes were sent"),
    ],
)
def test_damaged_notes_are_refused(path: Path, notes: str, message: str) -> None:
    """Behavior: a note of what was sent that cannot be true names its file and the way out."""
    sent_file(path).write_text(notes)
    with pytest.raises(TraceError, match=rf"trace\.jsonl\.sent\.json.*{message}"):
        replay(path, "http://127.0.0.1:4318")


def test_a_note_without_its_trace_is_refused(path: Path) -> None:
    """Behavior: where the trace is gone, a note of what was sent of it names the way out, and nothing is counted."""
    sent_file(path).write_text('{"http://localhost:4318/v1/traces": 7}')
    path.unlink()
    with pytest.raises(TraceError, match="7 bytes were sent, beyond the end"):
        sent_offset(path, endpoint("http://127.0.0.1:4318"))
    with pytest.raises(TraceError, match="does not exist; a run writes it"):
        undelivered(path, "http://127.0.0.1:4318")


def test_spans_are_counted_by_key_and_not_by_text() -> None:
    """Behavior: a name that looks like the key counts once, as the span it names."""
    assert [1, 2] == [count_spans(line('"startTimeUnixNano":')), count_spans(LINES[1])]


def test_a_trace_that_is_not_there_is_named(path: Path) -> None:
    """Behavior: the message says what would have written it."""
    with pytest.raises(TraceError, match=r"none\.jsonl does not exist; a run writes it unless tracing was off"):
        replay(path.with_name("none.jsonl"), "http://localhost:4318")
