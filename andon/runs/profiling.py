"""`andon train --profile EVERY`: torch's profiler, with stacks, for two steps in every so many.

Profiled steps are slower. Their spans and their records in the log say so, and no statistic takes them in.
"""

import gzip
import json
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.profiler import profile

    from andon.core.training.loop import OpenSpan, Span

STEPS = 2
FOLDER = "profile"


class Profiling:
    """Writes `profile/steps-000100.json.gz` into a run's folder for steps 100 and 101, and so on."""

    def __init__(self, folder: Path, every: int | None) -> None:
        self.folder, self.every = folder / FOLDER, every
        self.profiled = False  # the step that goes on, or went on last
        self._running: profile | None = None
        self._first = 0

    def around(self, span: "Span") -> "Span":
        """The same spans; those of profiled steps are marked, and beginning and ending a profile have their own."""
        if self.every is None:
            return span

        def profiling(name: str, **attributes: Any) -> "AbstractContextManager[OpenSpan]":
            return self._step(span, attributes) if name == "train.step" else span(name, **attributes)

        return profiling

    @contextmanager
    def _step(self, span: "Span", attributes: dict[str, Any]) -> "Generator[OpenSpan]":
        from torch.profiler import record_function

        number = attributes["step"]
        assert self.every
        if self._running is None and number % self.every == 0:
            with span("profile"):
                self._begin(number)
        self.profiled = self._running is not None
        if not self.profiled:
            with span("train.step", **attributes) as opened:
                yield opened
            return
        with span("train.step", **attributes, profiled=True) as opened, record_function("train.step"):
            yield opened
        if number + 1 == self._first + STEPS:
            with span("profile"):
                self.end()

    def _begin(self, number: int) -> None:
        from torch.profiler import profile

        self._first = number
        self._running = profile(with_stack=True)
        with silent():
            self._running.start()

    def end(self) -> None:
        """Write what is being profiled, also where the run ends before its second step."""
        if self._running is None:
            return
        running, self._running = self._running, None
        with silent():
            running.stop()
        self.folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "trace.json"
            running.export_chrome_trace(str(path))
            content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("host_name", None)  # nothing about the host is recorded
        target = self.folder / f"steps-{self._first:06d}.json.gz"
        target.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 1))


@contextmanager
def silent() -> Generator[None]:
    """Without what torch's profiler writes to the terminal when it begins and ends, past Python."""
    sys.stderr.flush()
    terminal, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nothing)
