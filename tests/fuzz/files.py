"""Files whose bytes a fuzzer has chosen: one folder per process, written again for each input."""

import atexit
import shutil
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
SPLIT = b"\n%%%\n"  # between the parts of an input that stands for several files
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def written(name: str, data: bytes) -> Path:
    """A file with this content."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def present(name: str, data: bytes) -> Path:
    """A file with this content; none where it is empty."""
    if data:
        return written(name, data)
    (FOLDER / name).unlink(missing_ok=True)
    return FOLDER / name


def parts(data: bytes, count: int) -> list[bytes]:
    """An input as that many parts; those that it lacks are empty."""
    found = data.split(SPLIT, count - 1)
    return found + [b""] * (count - len(found))
