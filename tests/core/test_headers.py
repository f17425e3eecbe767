"""The reader of safetensors headers: what it accepts is what the format allows, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from andon.core.files.headers import HeaderError, TensorEntry, parse_header, read_header

pytestmark = pytest.mark.tier1

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
B = {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]}


def parse(header: Any, data_bytes: int = 14) -> dict[str, TensorEntry]:
    """Parse a header given as Python."""
    return parse_header(json.dumps(header).encode(), data_bytes)


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    """Reference: names, dtypes, shapes and byte counts are those that `safetensors` was given."""
    tensors = {
        "matrix": torch.zeros(3, 5, dtype=torch.bfloat16),
        "scalar": torch.tensor(1.0),
        "empty": torch.zeros(0, 4, dtype=torch.int64),
        "flags": torch.zeros(7, dtype=torch.bool),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    entries = read_header(tmp_path / "x.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {n: e.shape for n, e in entries.items()}
    assert {"matrix": "BF16", "scalar": "F32", "empty": "I64", "flags": "BOOL"} == {
        n: e.dtype for n, e in entries.items()
    }
    assert {n: t.nbytes for n, t in tensors.items()} == {n: e.end - e.start for n, e in entries.items()}


def test_tensors_may_stand_in_any_order() -> None:
    """Behavior: the ranges must tile the data; the order of the names does not matter."""
    assert {"b": TensorEntry("BF16", (3,), 8, 14), "a": TensorEntry("F32", (2,), 0, 8)} == parse({"b": B, "a": A})


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ([], "not a JSON object"),
        ({"a": A, "b": {**B, "data_offsets": [6, 12]}}, "gap or an overlap"),
        ({"a": A, "b": {**B, "data_offsets": [9, 15]}}, "gap or an overlap"),
        ({"a": A, "b": {**A}}, "gap or an overlap"),
        ({"a": A}, "take 8 bytes and 14 follow"),
        ({"a": A, "b": {**B, "shape": [4]}}, "6 bytes; BF16 of shape [4] takes 8"),
        ({"a": A, "b": {**B, "shape": [-3]}}, "non-negative"),
        ({"a": A, "b": {**B, "shape": [True, 3]}}, "non-negative"),
        ({"a": A, "b": {**B, "shape": 3}}, "non-negative"),
        ({"a": A, "b": {**B, "data_offsets": [14, 8]}}, "has -6 bytes"),
        ({"a": A, "b": {**B, "data_offsets": [8]}}, "two non-negative integers"),
        ({"a": A, "b": {**B, "dtype": "Q4"}}, "dtype='Q4'; known are"),
        ({"a": A, "b": {**B, "dtype": ["F32"]}}, "dtype=['F32']; known are"),
        ({"a": A, "b": {"dtype": "BF16"}}, "must have dtype, shape and data_offsets"),
        ({"a": A, "b": {**B, "code": 1}}, "and nothing else"),
        ({"a": A, "b": [1]}, "must have dtype"),
        ({"a": A, "b": B, "__metadata__": {"format": 1}}, "must map strings to strings"),
        ({"a": A, "b": B, "__metadata__": "pt"}, "must map strings to strings"),
    ],
)
def test_refuses_what_the_format_forbids(header: Any, complaint: str) -> None:
    """Reference: the format's rules; each breach is named."""
    with pytest.raises(HeaderError) as caught:
        parse(header)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff{}", b'{"a": 1, "a": 2}', b"[" * 100_000])
def test_refuses_what_is_not_a_json_object(text: bytes) -> None:
    """Behavior: broken JSON, broken UTF-8, a name that occurs twice and endless nesting are all one clear error."""
    with pytest.raises(HeaderError, match="not a JSON object"):
        parse_header(text, 0)


@pytest.mark.parametrize("content", [b"", b"\x01", (2**63).to_bytes(8, "little"), (3).to_bytes(8, "little") + b"{}"])
def test_refuses_a_length_beyond_the_file(tmp_path: Path, content: bytes) -> None:
    """Behavior: a header length that the file cannot hold is refused before anything of that size is read."""
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(HeaderError, match="do not hold the announced header"):
        read_header(tmp_path / "x.safetensors")


def test_names_the_file(tmp_path: Path) -> None:
    """Behavior: an error inside the header names the file that it stands in."""
    (tmp_path / "x.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + b"spare")
    with pytest.raises(HeaderError, match=r"x\.safetensors: the tensors take 0 bytes and 5 follow"):
        read_header(tmp_path / "x.safetensors")
