"""A terminal that may go away while a run goes on: a closed pipe, a full disk, a lost connection."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class Steady:
    """A text stream that stays usable once its reader is gone: what is written from then on is dropped."""

    def __init__(self, stream: TextIO, lost: Callable[[str], None]) -> None:
        self._stream, self._lost = stream, lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        """Put the null device in the stream's place: what is buffered, and what is flushed at exit, goes there."""
        with suppress(OSError, ValueError):  # a stream that has no descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        self._lost(f"{self._stream.name}: {error.strerror}; the run goes on, and nothing more is printed there")


@contextmanager
def steady_output(lost: Callable[[str], None]) -> Generator[None]:
    """Within, a write to the standard streams never fails; `lost` is told once a stream is gone."""
    old = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Steady(stream, lost) for stream in old)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = old
