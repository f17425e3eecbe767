"""What an endpoint has taken from a trace: a note beside it (`trace.jsonl.sent.json`), one offset an endpoint."""

import json
from pathlib import Path
from typing import Any

from andon.files import write_whole
from andon.tracing.endpoint import Endpoint
from andon.tracing.errors import TraceError
from andon.tracing.lines import total_bytes
from andon.tracing.read import MALFORMED

REFUSED = "refused"  # the key beside the endpoints: spans that they refused


def sent_file(path: Path) -> Path:
    """Where the offsets delivered from `path` are kept."""
    return path.with_name(path.name + ".sent.json")


def _read(path: Path) -> dict[str, Any]:
    notes = sent_file(path)
    if not notes.exists():
        return {}
    try:
        content = json.loads(notes.read_text(encoding="utf-8"))
        offsets = {key: int(value) for key, value in content.items() if key != REFUSED}
        refused = {key: int(value) for key, value in content.get(REFUSED, {}).items()}
    except MALFORMED as error:
        raise TraceError(f"{notes} is damaged ({error}); delete it, and everything is sent again") from error
    return {**offsets, REFUSED: refused}


def sent_offsets(path: Path) -> dict[str, int]:
    """The same of every endpoint, by its address. Raises TraceError where the note of it is damaged."""
    return {key: offset for key, offset in _read(path).items() if key != REFUSED}


def sent_offset(path: Path, to: Endpoint) -> int:
    """Bytes of `path` that an endpoint has taken so far. Raises TraceError where the note of it is damaged."""
    offset = _read(path).get(to.key, 0)
    if offset and not 0 <= offset <= total_bytes(path):
        raise TraceError(f"{sent_file(path)} says {offset} bytes were sent, beyond the end of {path.name}; delete it")
    return offset


def refused_spans(path: Path, to: Endpoint) -> int:
    """Spans of `path` that an endpoint has refused, as far as it was sent."""
    return _read(path).get(REFUSED, {}).get(to.key, 0)


def note_offset(path: Path, to: Endpoint, offset: int, refused: int = 0) -> None:
    """Keep `offset`, and `refused` spans more, whole or not at all. Raises TraceError where there is no writing."""
    notes = _read(path)
    before = notes.get(REFUSED, {})
    count = before.get(to.key, 0) + refused if offset else 0
    notes[REFUSED] = {key: value for key, value in (before | {to.key: count}).items() if value}
    content = {key: value for key, value in (notes | {to.key: offset}).items() if key != REFUSED or value}
    try:
        write_whole(sent_file(path), json.dumps(content))
    except OSError as error:
        raise TraceError(
            f"{sent_file(path)} cannot be written ({error.strerror}); without that note everything would be sent "
            "again: make the folder writable, or copy the run"
        ) from error
