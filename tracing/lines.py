"""A file of lines that one process appends to while others read it, and that a kill may cut off anywhere.

Once the file has SEGMENT_BYTES, it is closed under a number (`trace.000001.jsonl`), compressed (`.gz`) by a thread, and
begun anew. Whoever reads sees one stream of lines: an offset counts uncompressed bytes from the first line on.
"""

import gzip
import itertools
import os
import shutil
import threading
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from andon.tracing.errors import TraceError

SEGMENT_BYTES = 64 * 2**20
LINE_BYTES = 64 * 2**20  # more is no line of ours, and need not fit in memory
BLOCK_BYTES = 2**16
FAST_GZIP = 1
FILES: "weakref.WeakSet[LineFile]" = weakref.WeakSet()
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def segment(path: Path, number: int) -> Path:
    """The name of a closed part of `path`, 1 for the first, before it is compressed."""
    return path.with_name(f"{path.stem}.{number:06d}{path.suffix}")


def compressed(part: Path) -> Path:
    """The name of a closed part once it is compressed."""
    return part.with_name(part.name + ".gz")


def closed_part(path: Path, number: int) -> Path | None:
    """A closed part under the name that it has now; None where there is none of that number."""
    part = segment(path, number)
    return next((name for name in (compressed(part), part, compressed(part)) if name.exists()), None)


def uncompressed_bytes(part: Path) -> int:
    """A part's size; gzip has it in its last four bytes, which suffice below 4 GiB."""
    with opened(part) as file:
        if not isinstance(file, gzip.GzipFile):
            return os.fstat(file.fileno()).st_size
        raw = cast("IO[bytes]", file.fileobj)
        raw.seek(-4, os.SEEK_END)
        return int.from_bytes(raw.read(4), "little")


def opened(part: Path) -> IO[bytes]:
    """A part to be read, also if it has been compressed meanwhile."""
    if part.suffix != ".gz":
        try:
            return part.open("rb")
        except FileNotFoundError:
            part = compressed(part)
    return cast("IO[bytes]", gzip.open(part, "rb"))


def parts(path: Path) -> Iterator[tuple[int, int, IO[bytes]]]:
    """The open files that `path` consists of, in order: where each begins, its bytes, and the file to be closed."""
    begin = 0
    for number in itertools.count(1):
        part = closed_part(path, number)
        if part is None:
            if not path.exists() and number > 1:
                return  # killed after the last part was closed
            live = path.open("rb")
            part = closed_part(path, number)
            if part is None:
                yield begin, os.fstat(live.fileno()).st_size, live
                return
            live.close()  # it was closed just now: under its number it can be read
        size = uncompressed_bytes(part)
        yield begin, size, opened(part)
        begin += size


def complete_lines(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Lines that end in a newline, from byte `offset` on, each with the offset just behind it.

    Raises TraceError where a part cannot be decompressed or a line is longer than LINE_BYTES, and FileNotFoundError.
    """
    for begin, size, file in parts(path):
        with file:
            if begin + size <= offset and isinstance(file, gzip.GzipFile):
                continue
            try:
                yield from _lines_of(file, begin, offset)
            except DAMAGED as error:
                raise TraceError(f"{file.name} is damaged ({error}); remove it to go on without its spans") from error


def _lines_of(file: IO[bytes], begin: int, offset: int) -> Iterator[tuple[int, bytes]]:
    end = max(begin, offset)
    file.seek(end - begin)
    while line := file.readline(LINE_BYTES):
        if not line.endswith(b"\n"):
            if len(line) == LINE_BYTES:
                raise TraceError(f"{file.name} has a line of more than {LINE_BYTES:,} bytes; it is no trace")
            return
        end += len(line)
        yield end, line


def total_bytes(path: Path) -> int:
    """Bytes of all lines, uncompressed, with an unfinished last one; 0 where there is no file."""
    total = 0
    if path.exists() or closed_part(path, 1):
        for begin, size, file in parts(path):
            file.close()
            total = begin + size
    return total


def trim_torn_line(path: Path) -> int:
    """Cut a last line without newline, which a killed writer left, so that appending is safe. Bytes cut, else 0."""
    if not path.exists():
        return 0
    size = whole = path.stat().st_size
    with path.open("rb") as file:
        while whole:
            begin = max(0, whole - BLOCK_BYTES)
            file.seek(begin)
            newline = file.read(whole - begin).rfind(b"\n")
            if newline >= 0:
                whole = begin + newline + 1
                break
            whole = begin
    if size > whole:
        os.truncate(path, whole)
    return size - whole


class LineFile:
    """Appends each line whole or not at all, past the process's own buffers, so that a kill loses no finished line.

    The first write that fails (a full disk) is undone and kept in `problem`; from then on nothing is written, since a
    trace with a hole in it would look like one without. A forked child writes nothing: the lines are its parent's. Nor
    does anybody once it is closed, such as a thread whose span goes on after the run.
    """

    def __init__(self, path: Path) -> None:
        self.problem: OSError | None = None
        self._path, self._forked = path, False
        self._lock = threading.Lock()
        FILES.add(self)
        self._open()
        closed = []
        while part := closed_part(path, len(closed) + 1):
            closed.append(part)
        self._compress([part for part in closed if part.suffix != ".gz"])
        self._parts = len(closed)

    def forked(self) -> None:
        """This is a child's copy from here on."""
        self._forked = True

    def _open(self) -> None:
        self._file = self._path.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, line: bytes) -> None:
        """Append `line`, with its newline."""
        with self._lock:
            if self.problem is None and not self._file.closed and not self._forked:
                try:
                    if self._size and self._size + len(line) > SEGMENT_BYTES:
                        self._begin_anew()
                    self._append(line)
                except OSError as error:
                    self.problem = error

    def _append(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(line)

    def _begin_anew(self) -> None:
        """Close the file under the next number. Whoever has it open reads on."""
        self._file.close()
        self._parts += 1
        closed = segment(self._path, self._parts)
        self._path.rename(closed)
        self._open()
        self._compress([closed])

    def _compress(self, closed: list[Path]) -> None:
        if closed:
            thread = threading.Thread(target=compress, args=(closed,), name="trace-compressor", daemon=True)
            thread.start()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _in_child() -> None:
    for each in list(FILES):
        each.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)  # to ask at each line is a call into the kernel


def compress(closed: list[Path]) -> None:
    """Put compressed parts in the place of closed ones; where there is no room for one, it stays as it is."""
    for part in closed:
        temporary = part.with_name(f".{part.name}.tmp")
        try:
            with part.open("rb") as source, gzip.open(temporary, "wb", FAST_GZIP) as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
            temporary.replace(compressed(part))
            part.unlink()
        except OSError:
            temporary.unlink(missing_ok=True)
