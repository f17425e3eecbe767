"""Where spans are sent: an address and OpenTelemetry's variables."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from andon.tracing import connection, lines, notes, send
from andon.tracing.connection import seconds_to_wait
from andon.tracing.endpoint import endpoint, named_by_environment
from andon.tracing.errors import BusyError, TraceError
from andon.tracing.notes import sent_file
from andon.tracing.record import open_trace
from andon.tracing.send import replay, undelivered
from tests.otlp import Endpoint
from tests.otlp import endpoint as running
from tests.tracing.three_lines import LINES

pytestmark = pytest.mark.tier2

SECRET = "hunter2"  # noqa: S105 - what must not be seen


@contextmanager
def saying(*pieces: bytes, pause: float) -> Generator[str, None, None]:
    """The address of a server that sends the pieces, again and again, with pauses between them."""
    over = threading.Event()

    def talk(listening: socket.socket) -> None:
        client, _ = listening.accept()
        with client:
            try:
                while not over.is_set():
                    for piece in pieces:
                        client.sendall(piece)
                        over.wait(pause)
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=talk, args=(listening,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
        thread.join()


@pytest.mark.parametrize(
    ("variable", "value", "address"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318", "http://collector:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector/base/", "http://collector/base/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/ingest", "http://collector:4318/ingest"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector", "https://collector/"),
    ],
)
def test_the_environments_endpoint(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, address: str) -> None:
    """Reference: OTLP exporter: the general address gets /v1/traces behind it, that for traces is used as it is."""
    monkeypatch.setenv(variable, value)
    assert named_by_environment()
    assert address == str(endpoint())
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not named_by_environment()


def test_a_variable_for_traces_wins(monkeypatch: pytest.MonkeyPatch, path: Path, server: Endpoint) -> None:
    """Reference: OTLP exporter: "signal-specific options take precedence"; an empty one is unset."""
    for kind, address, header in (
        ("", "http://nobody:1", "x-which=general"),
        ("TRACES_", server.url, "x-which=traces"),
    ):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT", address)
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{kind}HEADERS", header)
    assert 4 == replay(path, None).accepted
    assert (["/"], "traces") == (server.paths, server.headers[0]["x-which"])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "")
    assert {"x-which": "general"} == endpoint().headers


def test_compression_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, path: Path, server: Endpoint) -> None:
    """Reference: OTLP exporter, OTEL_EXPORTER_OTLP_COMPRESSION."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert 4 == replay(path, server.url).accepted
    assert "gzip" == server.headers[0]["Content-Encoding"]
    assert 4 == len(server.spans)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TIMEOUT", "10s", "OTEL_EXPORTER_OTLP_TIMEOUT='10s' is not a number of milliseconds above 0"),
        ("TIMEOUT", "0", "is not a number of milliseconds above 0"),
        ("COMPRESSION", "zstd", "OTEL_EXPORTER_OTLP_COMPRESSION='zstd' is not known; it is gzip or none"),
        ("HEADERS", f"authorization=Bearer%20{SECRET}%0A", "the value of 'authorization' holds a character"),
        ("HEADERS", f"a b={SECRET}", "entry 1 is not `name=value` with a header's name"),
        ("HEADERS", f"a=1,{SECRET}", "entry 2 is not `name=value`"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_without_its_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    """Behavior: before a run starts, and no file appears; what may be secret is not shown."""
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{variable}", value)
    with (
        pytest.raises(TraceError) as caught,
        open_trace(tmp_path / "run" / "trace.jsonl", "run-1", {}, otlp="http://localhost:4318"),
    ):
        pass
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert [] == list(tmp_path.iterdir())


def test_a_certificate_is_the_one_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Reference: OTLP exporter, OTEL_EXPORTER_OTLP_CERTIFICATE: an endpoint is trusted by it, and by it alone."""
    key, authority = tmp_path / "key.pem", tmp_path / "authority.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(authority)]
    subprocess.run([*request, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    trace = tmp_path / "trace.jsonl"
    trace.write_bytes(LINES[0])
    with running() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://localhost:{server.server_port}"
        with pytest.raises(BusyError, match="CERTIFICATE_VERIFY_FAILED"):
            replay(trace, url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(authority))
        assert 1 == replay(trace, url).accepted
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "none.pem"))
    with pytest.raises(TraceError, match="holds no certificate in PEM"):
        endpoint("https://localhost")


def test_this_machine_is_one_endpoint(path: Path, server: Endpoint) -> None:
    """Behavior: what was sent to 127.0.0.1 is not sent to localhost or [::1] again."""
    assert 4 == replay(path, server.url).accepted
    port = server.server_port
    assert [0, 0] == [undelivered(path, f"http://{host}:{port}") for host in ("localhost", "[::1]")]
    assert 4 == undelivered(path, f"http://localhost:{port + 1}")


def test_an_addresss_password_is_sent_and_nowhere_kept(path: Path, server: Endpoint) -> None:
    """Behavior: user and password become a header; no file, no message and no printed address holds them."""
    url = f"http://user:{SECRET}@127.0.0.1:{server.server_port}"
    assert 4 == replay(path, url).accepted
    assert "Basic dXNlcjpodW50ZXIy" == {key.lower(): value for key, value in server.headers[0].items()}["authorization"]
    assert SECRET not in sent_file(path).read_text() + str(endpoint(url)) + endpoint(url).key
    with pytest.raises(TraceError) as caught:
        endpoint(f"http://user:{SECRET}@host:port")
    assert SECRET not in str(caught.value)
    server.status, server.answer = 401, f"user:{SECRET} dXNlcjpodW50ZXIy".encode()
    assert "dXNlcjpodW50ZXIy" not in replay(path, url, again=True).reason


def test_a_header_that_the_endpoint_repeats_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, path: Path, server: Endpoint
) -> None:
    """Behavior: an answer's words reach the screen on one line, without the values of headers."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{SECRET}")
    server.status, server.answer = 401, f"invalid\r\n\x1b[31m token {SECRET}".encode()
    reason = replay(path, server.url).reason
    assert reason.endswith("answered HTTP 401 Unauthorized: invalid [31m token ***")


def test_whatever_the_sender_raises_is_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: Endpoint
) -> None:
    """Behavior: an error that nobody foresaw ends neither the thread nor the run, and the last one is said."""
    reasons, tried = iter(["first"]), threading.Event()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-token={SECRET}")

    def fail(*_: object) -> None:
        tried.set()
        raise RuntimeError(next(reasons, f"latest {SECRET}"))

    monkeypatch.setattr(send, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(send.Deliverer, "_deliver", fail)
    with open_trace(tmp_path / "trace.jsonl", "run-1", {}, otlp=server.url) as trace:
        assert tried.wait(10)  # the run's end is another try
    (note,) = trace.notes
    assert "2 spans did not reach" in note
    assert "(RuntimeError('latest ***'))" in note


@pytest.mark.parametrize(
    ("pieces", "pause", "said"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\n", *[b" " * 10_000] * 200], 0.0, "its answer is longer than"),
        ([b"H"], 0.05, "cannot be reached (no whole answer in 0.5 s)"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n", *[b"x"] * 50], 0.05, "(no whole answer in 0.5 s)"),
    ],
)
def test_an_answer_without_end_and_one_a_byte_at_a_time(
    monkeypatch: pytest.MonkeyPatch, path: Path, pieces: list[bytes], pause: float, said: str
) -> None:
    """Behavior: an exchange ends within the timeout and ANSWER_BYTES, as one error, and nothing counts as sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "500")
    begun = time.monotonic()
    with saying(*pieces, pause=pause) as url, pytest.raises(TraceError) as caught:
        replay(path, url)
    assert said in str(caught.value)
    assert time.monotonic() - begun < 2
    assert connection.ANSWER_BYTES < 2_000_000


def test_a_folder_without_writing_is_one_error(monkeypatch: pytest.MonkeyPatch, path: Path, server: Endpoint) -> None:
    """Behavior: where nothing can be noted beside the trace, the message names the file and the next step."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(notes, "write_whole", refuse)
    with pytest.raises(
        TraceError, match=r"sent\.json cannot be written \(Permission denied\).*make the folder writable"
    ):
        replay(path, server.url)


def test_a_line_without_end_is_refused_in_bounded_memory(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Behavior: what has no newline for LINE_BYTES is no trace, and is not read to its end."""
    monkeypatch.setattr(lines, "LINE_BYTES", 1000)
    path.write_bytes(b"x" * 5000)
    with pytest.raises(TraceError, match="a line of more than 1,000 bytes"):
        list(lines.complete_lines(path))


@pytest.mark.parametrize(("given", "seconds"), [("7", 7), ("", 0), ("soon", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)])
def test_retry_after(given: str, seconds: float) -> None:
    """Reference: RFC 9110, section 10.2.3: seconds, or a date; what cannot be read says nothing."""
    assert seconds == seconds_to_wait(given)


def test_retry_after_a_date() -> None:
    """Reference: RFC 9110, section 5.6.7, a date to come."""
    assert 3000 < seconds_to_wait(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))) < 3601


def test_the_note_counts_what_was_refused(path: Path, server: Endpoint) -> None:
    """Behavior: beside the offsets, and no more once everything is sent again."""
    server.status = 400
    replay(path, server.url)
    assert {f"http://localhost:{server.server_port}/v1/traces": 4} == json.loads(sent_file(path).read_text())["refused"]
    server.status = 200
    replay(path, server.url, again=True)
    assert "refused" not in json.loads(sent_file(path).read_text())
