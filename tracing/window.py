"""A window of steps, the root of a trace, and what looks through its steps once it has closed."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from statistics import median

from andon.tracing import encode
from andon.tracing.analysis.findings import KINDS, Finding
from andon.tracing.analysis.steps import Builder
from andon.tracing.analysis.verdict import Analysis, Verdict
from andon.tracing.conventions import Attribute
from andon.tracing.spans import GAP_NS, Between, OpenSpan, prefixed

SETTLE_SECONDS = 1.0


class Window:
    """The root of a trace of some steps."""

    def __init__(self, trace_id: str, span_id: str, index: int, start: int) -> None:
        self.trace_id, self.span_id, self.index, self.start = trace_id, span_id, index, start
        self.last = start - GAP_NS
        self.steps: list[tuple[int, int | None, bool]] = []  # nanoseconds, number, and whether it was profiled
        self.spans = 1
        self.open = 0  # directly below it, in any thread
        self.closed = False
        self.events: list[str] = []
        self.attributes: dict[str, Attribute] = {}
        self.ended: list[list[OpenSpan | Between | str]] = []  # all, to be looked through once it has closed

    def summary(self) -> dict[str, Attribute]:
        """What a search in Jaeger finds it by."""
        said: dict[str, Attribute] = {"train.window.index": self.index, "train.window.steps": len(self.steps)}
        numbers = [number for _, number, _ in self.steps if number is not None]
        if numbers:
            said |= {"train.window.first_step": numbers[0], "train.window.last_step": numbers[-1]}
        timed = [each[:2] for each in self.steps if not each[2]]
        if timed:
            slowest, number = max(timed, key=lambda each: each[0])
            said["train.window.median_seconds"] = median(each for each, _ in timed) / 1e9
            said["train.window.slowest_seconds"] = slowest / 1e9
            said |= {} if number is None else {"train.window.slowest_step": number}
        return said | self.attributes

    def note(self, found: Finding) -> None:
        """What its steps show, the worst last: an event, and attributes. What was noted while it ran is worse."""
        numbers = prefixed({"step": found.step, **found.numbers})
        self.events.append(encode.event(found.kind, found.time, numbers))
        self.attributes[f"train.found.{found.kind.removeprefix('train.')}"] = found.step
        if self.attributes.get("train.finding", found.kind) in KINDS:
            self.attributes["train.finding"] = found.kind


class Looking:
    """Looks through windows in a thread of its own, in order, while the next step runs."""

    def __init__(self, attributes: Mapping[str, Attribute], done: Callable[[Window], None]) -> None:
        self.findings: deque[Finding] = deque()  # that nobody has taken yet
        self.problem: Exception | None = None
        self._builder = Builder()
        self._analysis = Analysis(attributes, self._builder.sources)
        self._done = done  # called with a window that has been looked through
        self._idle = threading.Event()
        self._idle.set()
        self._closed: SimpleQueue[Window | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="trace-findings", daemon=True)
        self._thread.start()

    def add(self, window: Window) -> None:
        """A window that has closed, with all that ended in it."""
        self._idle.clear()
        self._closed.put(window)

    def settle(self) -> None:
        """Wait until what was added is done: a step later it is, unless steps take less than a millisecond."""
        if not self._idle.is_set() and self._thread.is_alive():  # a forked child has no such thread
            self._idle.wait(SETTLE_SECONDS)

    def close(self) -> Verdict | None:
        """Wait until all windows are done, and say where the time went."""
        self._closed.put(None)
        self._thread.join()
        return self._analysis.verdict()

    def _follow(self) -> None:
        while window := self._closed.get():
            try:
                try:
                    self._look(window)
                finally:
                    self._done(window)
            except Exception as error:  # noqa: BLE001 - a note at the run's end: a trace is whole without findings
                self.problem = error
            finally:
                self._idle.set()

    def _look(self, window: Window) -> None:
        for ended in window.ended:
            self._builder.add(each for each in ended if not isinstance(each, str))
        window.ended = []
        for found in self._analysis.add(self._builder.take()):
            window.note(found)
            self.findings.append(found)
