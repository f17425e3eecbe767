"""A file of lines that one process appends to while others read it, and that a kill may cut off anywhere."""

import io
import os
from collections.abc import Iterator
from pathlib import Path


def complete_lines(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines that end in a newline, from byte `offset` on, each with the offset just behind it."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, line


def trim_torn_line(path: Path) -> int:
    """Cut a last line without newline, which a killed writer left, so that appending is safe. Bytes cut, else 0."""
    if not path.exists():
        return 0
    whole = max((end for end, _ in complete_lines(path)), default=0)
    torn = path.stat().st_size - whole
    if torn:
        os.truncate(path, whole)
    return torn


class LineFile(io.TextIOBase):
    """Appends each line whole or not at all, past the process's own buffers, so that a kill loses no finished line.

    The first write that fails (a full disk) is undone and kept in `problem`; from then on nothing is written, since a
    trace with a hole in it would look like one without.
    """

    def __init__(self, path: Path) -> None:
        self.problem: OSError | None = None
        self._file = path.open("ab", buffering=0)

    def write(self, text: str, /) -> int:
        """Append `text`, one line with its newline."""
        if self.problem is None:
            end = self._file.tell()
            rest = memoryview(text.encode())
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as error:
                self.problem = error
                self._file.truncate(end)
        return len(text)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
