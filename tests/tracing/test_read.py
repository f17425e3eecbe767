"""Reading recorded spans back, whole or torn."""

from pathlib import Path

import pytest

from andon.tracing.errors import TraceError
from andon.tracing.lines import LineFile, complete_lines, trim_torn_line
from andon.tracing.read import read_spans

pytestmark = pytest.mark.tier1

LINE = (
    b'{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"andon"}}]},'
    b'"scopeSpans":[{"scope":{"name":"s"},"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c",'
    b'"spanId":"b7ad6b7169203331","parentSpanId":"00f067aa0ba902b7","name":"train.step","kind":1,'
    b'"startTimeUnixNano":"1544712660000000000","endTimeUnixNano":"1544712661000000000","attributes":['
    b'{"key":"train.step","value":{"intValue":"7"}},{"key":"rate","value":{"doubleValue":0.5}},'
    b'{"key":"skipped","value":{"boolValue":true}}],"status":{"code":2},"links":['
    b'{"traceId":"4bf92f3577b34da6a3ce929d0e0e4736","spanId":"00f067aa0ba902b7"}]}]}]}]}\n'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the trace lies."""
    return tmp_path / "trace.jsonl"


def test_a_line_of_the_specification(path: Path) -> None:
    """Reference: OTLP's JSON encoding, with integers as strings and ids in hexadecimal."""
    path.write_bytes(LINE)
    ((span,), torn) = read_spans(path)
    assert 0 == torn
    assert ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7") == span[:3]
    assert ("train.step", 1_000_000_000, True) == (span.name, span.end - span.start, span.failed)
    assert {"train.step": 7, "rate": 0.5, "skipped": True} == span.attributes
    assert {"service.name": "andon"} == span.resource
    assert [("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")] == span.links


def test_a_torn_last_line_is_left_out_and_reported(path: Path) -> None:
    """Behavior: cut anywhere inside its last line, the file gives the spans before it and the size of the rest."""
    for kept in range(0, len(LINE), 16):
        path.write_bytes(LINE + LINE[:kept])
        spans, torn = read_spans(path)
        assert (1, kept) == (len(spans), torn)


@pytest.mark.parametrize("bad", [b"{}\n", b"not json\n", b"[]\n", b"\n", LINE.replace(b'"name":"train.step",', b"")])
def test_a_bad_line_is_refused_with_its_number(path: Path, bad: bytes) -> None:
    """Behavior: a complete line that is not OTLP JSON is an error that names file and line."""
    path.write_bytes(LINE + bad + LINE)
    with pytest.raises(TraceError, match=r"trace\.jsonl line 2 is not OTLP JSON"):
        read_spans(path)


def test_a_missing_file_is_refused(path: Path) -> None:
    """Behavior: the error names the file and why it may be missing."""
    with pytest.raises(TraceError, match=r"trace\.jsonl does not exist; a run writes it unless tracing was off"):
        read_spans(path)


def test_complete_lines_from_an_offset(path: Path) -> None:
    """Behavior: every complete line comes with the offset to go on from; an unfinished one does not come."""
    path.write_bytes(b"one\ntwo\nthr")
    assert [(4, b"one\n"), (8, b"two\n")] == list(complete_lines(path))
    assert [(8, b"two\n")] == list(complete_lines(path, 4))
    assert [] == list(complete_lines(path, 8))


@pytest.mark.parametrize(
    ("content", "left", "cut"),
    [(b"one\ntwo\n", b"one\ntwo\n", 0), (b"one\nt", b"one\n", 1), (b"one", b"", 3), (b"", b"", 0)],
)
def test_trimming(path: Path, content: bytes, left: bytes, cut: int) -> None:
    """Behavior: only what follows the last newline is cut."""
    path.write_bytes(content)
    assert cut == trim_torn_line(path)
    assert left == path.read_bytes()


def test_trimming_nothing(path: Path) -> None:
    """Behavior: a file that is not there yet needs no trimming and is not made."""
    assert 0 == trim_torn_line(path)
    assert not path.exists()


def test_a_line_is_on_disk_once_written(path: Path) -> None:
    """Behavior: nothing of a line waits in this process."""
    file = LineFile(path)
    for count in (1, 2):
        file.write(b"x" * 20_000 + b"\n")
        assert 20_001 * count == path.stat().st_size
    file.close()
