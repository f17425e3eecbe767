"""Files that are written whole or not at all. The standard library is all that this needs: every package may use it."""

import contextlib
import os
from pathlib import Path

TEMPORARY = ".tmp"


def write_whole(path: Path, text: str, *, synced: bool = True) -> None:
    """Write a text file with its folders: whoever reads it sees the old text or the new, never a part.

    Not `synced`, a power cut may cost it: right for what is sealed and can be made again.

    Raises:
        OSError: the file system refused; it names the file, which is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # where it cannot be removed the first error says why
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers of whole files have left in a folder; the caller is the only one that writes there."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)
