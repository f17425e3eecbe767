"""Safetensors headers, read without torch and trusted only after validation.

The format (safetensors README, "Format"): eight bytes of little-endian header length, that many bytes of JSON, then
the tensors' bytes. The JSON maps names to dtype, shape and a byte range; `__metadata__` maps strings to strings.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from andon.reading import ReadError, open_regular, parse_json

MAX_HEADER_BYTES = 100_000_000  # the reference implementation's own limit
MAX_DIMENSIONS = 8
METADATA = "__metadata__"
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


class HeaderError(ValueError):
    """A file that breaks the safetensors format; the message names the file and the rule."""


class TensorEntry(NamedTuple):
    """One tensor as the header describes it: bytes [start, end) after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, by name.

    Raises:
        HeaderError: the file breaks a rule of the format.
        OSError: the file cannot be read.
    """
    try:
        opened = open_regular(path)
    except ReadError as error:
        raise HeaderError(f"{path}: {error}") from error
    with opened as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise HeaderError(
                f"{path}: {size} bytes do not hold the announced header: truncated, or not a safetensors file"
            )
        text = file.read(length)
    try:
        return parse_header(text, size - 8 - length)
    except HeaderError as error:
        raise HeaderError(f"{path}: {error}") from error


def sort_metadata(path: Path) -> None:
    """Put a file's metadata in order, which the library writes in another at each call: equal content, equal bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header[METADATA] = dict(sorted(header[METADATA].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length, f"{path}: a header of {len(text)} bytes does not fit into {length}"
        file.seek(8)
        file.write(text.ljust(length))


def parse_header(text: bytes, data_bytes: int) -> dict[str, TensorEntry]:
    """Check a header's JSON against the number of bytes that follow it.

    Raises:
        HeaderError: not a JSON object, a repeated name, an unknown dtype, or ranges that do not tile the data exactly.
    """
    try:
        header = parse_json(text.decode("utf-8"), _without_duplicates)
    except ValueError as error:
        raise HeaderError(f"the header is not a JSON object ({error})") from error
    if not isinstance(header, dict):
        raise HeaderError("the header is not a JSON object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError(f"{METADATA} must map strings to strings")
    entries = {name: _tensor_entry(name, fields) for name, fields in header.items()}
    check_tiling(entries, data_bytes)
    return entries


def check_tiling(entries: dict[str, TensorEntry], data_bytes: int) -> None:
    """No gap, no overlap, nothing left over: tensors must not share bytes, and every byte belongs to one.

    Raises:
        HeaderError: naming the first tensor that does not begin where the previous one ends, or the bytes left over.
    """
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            raise HeaderError(f"{name!r} starts at byte {entry.start} instead of {end}: a gap or an overlap")
        end = entry.end
    if end != data_bytes:
        raise HeaderError(f"the tensors take {end} bytes and {data_bytes} follow the header; truncated or corrupt")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _tensor_entry(name: str, fields: Any) -> TensorEntry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"{name!r} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise HeaderError(f"{name!r} has dtype={dtype!r}; known are {', '.join(ITEM_BYTES)}")
    if not _are_sizes(shape):
        raise HeaderError(f"{name!r} has shape={shape!r:.80}; expected at most {MAX_DIMENSIONS} non-negative integers")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise HeaderError(f"{name!r} has data_offsets={offsets!r:.80}; expected two non-negative integers")
    start, end = offsets
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if end - start != wanted:
        raise HeaderError(f"{name!r} has {end - start} bytes; {dtype} of shape {shape} takes {wanted}")
    return TensorEntry(dtype, tuple(shape), start, end)


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMENSIONS
        and all(type(number) is int and 0 <= number < 1 << 63 for number in value)
    )
