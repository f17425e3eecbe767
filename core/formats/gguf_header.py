"""GGUF's metadata and tensor table, read without torch and trusted only after validation, and the model's shape.

The format (ggml, `docs/gguf.md`, versions 2 and 3, little-endian): magic, version, two counts, key-value pairs, then
name, dimensions, type and offset of each tensor. No count is trusted beyond the bytes that are there.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from andon.core.config import ModelConfig
from andon.core.formats.huggingface_config import InterchangeError, explain
from andon.reading import ReadError, open_regular

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # struct's codes
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4

# Our key: GGUF's, after `llama.`.
REQUIRED = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "rope_theta": "rope.freq_base",
    "head_dim": "attention.key_length",
}
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


class GgufError(ValueError):
    """Bytes that break the format; the message says how."""


class Header(NamedTuple):
    """Metadata by key, and the tensors' shapes by name, rows first."""

    fields: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


class Cursor:
    """A file's bytes, and the position of the next read."""

    def __init__(self, data: mmap.mmap | bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        """The next bytes, all of them or a GgufError."""
        if count > len(self.data) - self.position:
            raise GgufError(f"{count} bytes at byte {self.position} reach beyond the end")
        self.position += count
        return self.data[self.position - count : self.position]

    def numbers(self, code: str, count: int) -> list[Any]:
        """The next numbers of one type, by struct's code for it."""
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}"))))

    def number(self, code: str) -> Any:
        """The next number."""
        return self.numbers(code, 1)[0]

    def text(self) -> str:
        """The next string."""
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise GgufError(f"a string before byte {self.position} is not UTF-8") from error


def read_header(path: Path) -> Header:
    """Metadata and tensor table of a file.

    Raises:
        InterchangeError: unreadable, not a GGUF file, or truncated.
    """
    try:
        with open_regular(path) as file:
            if not file.read(1):  # mmap refuses an empty file
                return parse_header(b"")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return parse_header(data)
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read ({error.strerror}); name a GGUF file") from error
    except ReadError as error:
        raise InterchangeError(f"{path}: {error}; name a GGUF file") from error
    except GgufError as error:
        raise InterchangeError(f"{path}: is not a complete GGUF file ({error}); fetch it again") from error


def parse_header(data: mmap.mmap | bytes) -> Header:
    """Metadata and tensor table of a file's bytes.

    Raises:
        GgufError: another format or version, a count or length beyond the end, or a name that occurs twice.
    """
    cursor = Cursor(data)
    if cursor.take(4) != MAGIC:
        raise GgufError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in VERSIONS:
        raise GgufError(f"version {version} is not read, only {' and '.join(map(str, VERSIONS))} are")
    tensors, pairs = cursor.numbers("Q", 2)
    fields: dict[str, Any] = {}
    for _ in range(pairs):  # each consumes bytes, so that a wrong count ends at the end of the file
        key = cursor.text()
        if key in fields:
            raise GgufError(f"{key!r} occurs twice")
        fields[key] = _value(cursor, cursor.number("I"))
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(tensors):
        name, shape = _tensor(cursor)
        if name in shapes:
            raise GgufError(f"{name!r} occurs twice")
        shapes[name] = shape
    return Header(fields, shapes)


def model_config(path: Path, header: Header) -> ModelConfig:
    """The shape of the model that a header describes.

    Raises:
        InterchangeError: another architecture, a missing or invalid key, or a feature that a plain Llama does not have.
    """
    fields, shapes = header
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise InterchangeError(f"{path}: general.architecture={architecture!r} is not supported; only 'llama' is")
    for key in ("llama.expert_count", "llama.rope.scaling.type"):
        if fields.get(key) not in (None, 0, "none"):
            raise InterchangeError(
                f"{path}: {key}={fields[key]!r} is not supported; load the model's Hugging Face directory"
            )
    missing = [f"llama.{key}" for key in REQUIRED.values() if f"llama.{key}" not in fields]
    if missing or len(shapes.get(EMBEDDING, ())) != 2:
        raise InterchangeError(f"{path}: {(missing or [EMBEDDING])[0]} is missing; fetch the file again")
    keys = {**REQUIRED, **OPTIONAL}
    known = {ours: fields[f"llama.{key}"] for ours, key in keys.items() if f"llama.{key}" in fields}
    known.setdefault("num_key_value_heads", known["num_attention_heads"])
    known["vocab_size"] = shapes[EMBEDDING][0]
    known["tie_word_embeddings"] = HEAD not in shapes
    try:
        config = ModelConfig.model_validate(known)
    except ValidationError as error:
        raise InterchangeError(f"{path}: {explain(error)}") from error
    rotated = fields.get("llama.rope.dimension_count", config.head_size)
    if rotated != config.head_size:
        raise InterchangeError(
            f"{path}: llama.rope.dimension_count={rotated} of head_dim={config.head_size}; both must be equal"
        )
    return config


def load_gguf_config(path: Path) -> ModelConfig:
    """The shape of the model in a GGUF file.

    Raises:
        InterchangeError: as `read_header` and `model_config`.
    """
    return model_config(path, read_header(path))


def huggingface_name(path: Path, name: str) -> str:
    """The Hugging Face name of a GGUF tensor: `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`.

    Raises:
        InterchangeError: a tensor that a plain Llama does not have.
    """
    stem, _, kind = name.rpartition(".")
    block, _, part = stem.rpartition(".")
    prefix = f"model.layers.{block.removeprefix('blk.')}." if block.startswith("blk.") else block
    if kind != "weight" or part not in NAMES:
        raise InterchangeError(
            f"{path}: {name} is unexpected in a plain Llama; load the model's Hugging Face directory"
        )
    return f"{prefix}{NAMES[part]}.weight"


def _value(cursor: Cursor, kind: int) -> Any:
    if kind == STRING:
        return cursor.text()
    if kind in SCALARS:
        return cursor.number(SCALARS[kind])
    if kind != ARRAY:
        raise GgufError(f"a value has type {kind}; known are 0 to {max(SCALARS)}")
    inner, count = cursor.number("I"), cursor.number("Q")
    if inner == STRING:
        return [cursor.text() for _ in range(count)]
    if inner not in SCALARS:
        raise GgufError(f"an array holds values of type {inner}; numbers and strings are read")
    return cursor.numbers(SCALARS[inner], count)


def _tensor(cursor: Cursor) -> tuple[str, tuple[int, ...]]:
    """Name and shape; type and offset are skipped, as the library reads them with the weights."""
    name, dimensions = cursor.text(), cursor.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise GgufError(f"{name!r} has {dimensions} dimensions; {MAX_DIMENSIONS} is the maximum")
    shape = tuple(cursor.numbers("Q", dimensions)[::-1])
    cursor.take(4 + 8)
    return name, shape
