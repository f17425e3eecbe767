"""A checkpoint's manifest: size and hash of every file in the folder, so that any change is noticed."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from andon.core.config import NonNegativeInt, Table
from andon.reading import ReadError, open_regular, read_bytes
from andon.sealing import seal, unseal

MANIFEST = "manifest.json"
MODEL = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
# A manifest that names any other file is refused, so no path from it is ever followed.
FileName = Literal[
    "model.safetensors",
    "optimizer.safetensors",
    "config.json",
    "tokenizer.json",
    "adapter_model.safetensors",
    "adapter_config.json",
]
FILES: tuple[FileName, ...] = (MODEL, OPTIMIZER, CONFIG, TOKENIZER)
# Of a run that trains an adapter: the adapter in PEFT's layout, without the frozen model.
ADAPTER_FILES: tuple[FileName, ...] = (ADAPTER, ADAPTER_CONFIG, OPTIMIZER, TOKENIZER)

FORMAT = 1
GO_BACK = "use the checkpoint before it: --resume --previous"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or trusted; the message names the file, what is wrong and the next step."""


class NotFiniteError(CheckpointError):
    """A weight or moment that holds NaN or inf: not saved, as it would push out checkpoints that are whole."""


class FileRecord(Table):
    """Size in bytes and SHA-256 of one file."""

    bytes: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: str


class RandomStates(Table):
    """States of the generators: torch's as hexadecimal bytes, Python's `random.getstate()` as JSON."""

    python: str
    torch: str
    cuda: str | None


class Manifest(Table):
    """Everything a checkpoint holds besides tensors. `metric` is the validation loss, where one was measured."""

    format: Literal[1] = FORMAT
    step: NonNegativeInt
    epoch: NonNegativeInt
    batch: NonNegativeInt
    metric: Finite | None
    learning_rate: Annotated[Finite, Field(ge=0)]
    skipped_in_a_row: NonNegativeInt
    loss_scale: Annotated[Finite, Field(gt=0)]
    scale_streak: NonNegativeInt
    environment: dict[str, str | int]
    config: dict[str, dict[str, Any]]
    random: RandomStates
    files: dict[FileName, FileRecord]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, sealed with the hash of its own content."""
    (folder / MANIFEST).write_bytes(seal(manifest.model_dump()))


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` alone; `check_files` checks what it lists.

    Raises:
        CheckpointError: missing, damaged, or of another format.
    """
    path = folder / MANIFEST
    try:
        fields = unseal(read_bytes(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); name a complete checkpoint") from error
    except ReadError as error:
        raise CheckpointError(f"{path}: {error}; {GO_BACK}") from error
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        value = "" if detail["type"] == "missing" else f"={detail['input']!r}"
        raise CheckpointError(
            f"{path}: {where}{value}: {detail['msg'].lower()}; written by another version: resume with that one"
        ) from error


def record_files(folder: Path) -> dict[FileName, FileRecord]:
    """Size and hash of each file that a checkpoint has; `tokenizer.json` may be absent."""
    files = ADAPTER_FILES if (folder / ADAPTER).exists() else FILES
    return {name: _record(folder / name) for name in files if name != TOKENIZER or (folder / name).exists()}


def check_files(folder: Path, manifest: Manifest, skip: tuple[FileName, ...] = ()) -> None:
    """Compare size and SHA-256 of the folder's files, except those in `skip`, with the manifest.

    Raises:
        CheckpointError: naming the first file that is missing, truncated, changed or of another checkpoint.
    """
    for name in ADAPTER_FILES if ADAPTER in manifest.files else FILES:
        path = folder / name
        if name in skip or (name == TOKENIZER and name not in manifest.files and not path.exists()):
            continue
        if name not in manifest.files:
            raise CheckpointError(
                f"{path}: is not listed in {MANIFEST}, so it belongs to another checkpoint; {GO_BACK}"
            )
        _check_file(path, manifest.files[name])


def _check_file(path: Path, wanted: FileRecord) -> None:
    try:
        size = path.stat().st_size
        if size != wanted.bytes:
            raise CheckpointError(f"{path}: {size} bytes where the manifest says {wanted.bytes}: truncated; {GO_BACK}")
        found = _record(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); {GO_BACK}") from error
    except ReadError as error:
        raise CheckpointError(f"{path}: {error}; {GO_BACK}") from error
    if found != wanted:
        raise CheckpointError(
            f"{path}: SHA-256 {found.sha256[:12]}... where the manifest says {wanted.sha256[:12]}...: "
            f"damaged, or the file of another checkpoint; {GO_BACK}"
        )


def _record(path: Path) -> FileRecord:
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(bytes=file.tell(), sha256=digest)
