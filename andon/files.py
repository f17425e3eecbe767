"""Files that are written whole or not at all. The standard library is all that this needs: every package may use it."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file with its folders: whoever reads it sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
