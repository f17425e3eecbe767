"""`SHA256SUMS` beside a model, in the format of `sha256sum`, and what vouches for a folder before it is used."""

import re
from collections.abc import Iterable
from pathlib import Path

from andon.core.files.manifest import MANIFEST, CheckpointError, FileName, check_files, read_manifest
from andon.reading import ReadError, file_sha256, read_text

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([\w.+-]+(?:/[\w.+-]+)?)")
MAX_BYTES = 1 << 20
# Files that decide what a model computes: none of them is used where the sums leave it out.
DECISIVE = ("*.safetensors", "config.json", "adapter_config.json", "model.safetensors.index.json")


def write_sums(folder: Path) -> None:
    """Write the sums of all files in a folder and in its folders."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    text = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names if name != SUMS)
    (folder / SUMS).write_text(text, encoding="utf-8")


def check_vouched(folder: Path, skip: tuple[FileName, ...] = ()) -> bool:
    """Compare a folder with its manifest or its sums; False where it has neither, so that nothing vouches for it.

    Raises:
        CheckpointError: naming the first file that is missing, changed, or not among them.
    """
    if (folder / MANIFEST).exists():
        check_files(folder, read_manifest(folder), skip=skip)
        return True
    if not (folder / SUMS).exists():
        return False
    sums = _read_sums(folder / SUMS)
    for name, wanted in sums.items():
        path = folder / name
        try:
            found = file_sha256(path)
        except (OSError, ReadError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); {SUMS} lists it: fetch it again") from error
        if found != wanted:
            raise CheckpointError(
                f"{path}: SHA-256 {found[:12]}... where {SUMS} says {wanted[:12]}...: damaged or replaced; "
                f"fetch it again, or delete {SUMS} if you changed the file yourself"
            )
    for path in _decisive(folder):
        if path.name not in sums:
            raise CheckpointError(f"{path}: is not listed in {SUMS}, so nothing vouches for it; remove it, or list it")
    return True


def _decisive(folder: Path) -> Iterable[Path]:
    return sorted(path for pattern in DECISIVE for path in folder.glob(pattern))


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = read_text(path, MAX_BYTES).splitlines()
    except (OSError, ReadError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); fetch it again") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line)
        if match is None or ".." in match[2].split("/"):
            raise CheckpointError(f"{path} line {number}: is not `SHA-256  NAME` of a file here; fetch it again")
        found[match[2]] = match[1]
    return found
