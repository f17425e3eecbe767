"""The open step of somebody's loop, and its one open phase, moved on by marks: a fetch, a pass, an optimizer's step.

A step is from a batch's fetch to the end of the last optimizer's step before the next fetch; what comes after belongs
between the steps. Where no fetch is seen, the step begins with its forward pass. A mark may be about a moment that has
passed: whether a fetch was of a step shows by what follows it, and a gradient may arrive in a thread of torch's.
"""

import sys
import threading
from types import FrameType
from typing import NamedTuple

from andon.tracing.record import Trace
from andon.tracing.spans import STEP, Moment, OpenSpan, encoded_code

LIBRARIES = {"accelerate", "andon", "contextlib", "functools", "lightning", "torch", "transformers"}
DATA, FORWARD, BACKWARD, OPTIMIZER = "data", "forward", "backward", "optimizer"


class Fetch(NamedTuple):
    """A batch was fetched: from when to when, and by which line."""

    begun: Moment
    ended: Moment
    code: str


class Phases:
    """Steps and phases of one thread's loop, in a trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.steps = 0
        self.optimizing = False  # what an optimizer calls, such as a closure, is of its step
        self._step: OpenSpan | None = None
        self._phase: OpenSpan | None = None
        self._fed = False  # whether the open step began with a fetch
        self._stepped: Moment | None = None  # when an optimizer's step ended, if nothing of a next step has begun
        self._fetches: list[Fetch] = []  # that may be of a step
        self._gradient: tuple[Moment, str] | None = None
        self._thread = threading.get_ident()

    def fetched(self, fetch: Fetch) -> None:
        """A batch is there: if a pass with gradients or an optimizer follows, its fetch is of a step."""
        if self._listens():
            self._fetches.append(fetch)

    def fed(self, fetch: Fetch) -> None:
        """A batch is there, and it is a step's."""
        self.fetched(fetch)
        self._settle()

    def forget_fetches(self) -> None:
        """A pass without gradients followed: it was fetched for that one."""
        if self._listens():
            self._fetches.clear()

    def gradient(self, name: str) -> None:
        """A gradient has arrived, in whichever thread: from here on a step is in its phase `name`."""
        self._gradient = self._gradient or (self.trace.moment(), name)

    def enter(self, name: str) -> None:
        """A phase begins now, unless it is open; what was open ends."""
        if not self._listens():
            return
        self._settle()
        if self._phase and self._phase.name == name:
            return
        now = self.trace.moment()
        if name == FORWARD and self._stepped and not self._fed:
            self.end_step()
        self._move(name, now, their_code(sys._getframe(1)))  # noqa: SLF001 - as in `spans`

    def leave(self, name: str) -> None:
        """A phase ends now, if it is open."""
        if self._listens():
            self._settle()
            if self._phase and self._phase.name == name:
                self._close(self.trace.moment())

    def optimizer_begins(self) -> None:
        """An optimizer's step begins."""
        self.enter(OPTIMIZER)
        self.optimizing = self._here()

    def optimizer_ended(self) -> None:
        """It has ended: so has the step, unless something of it follows."""
        if not self._here():
            return
        self.optimizing, self._gradient = False, None
        self.leave(OPTIMIZER)
        self._stepped = self.trace.moment()

    def ends_here(self) -> None:
        """The step's end is now, if one is open; it is written once something follows."""
        self._settle()
        if self._step:
            now = self.trace.moment()
            self._close(now)
            self._stepped = now

    def end_step(self, failure: str = "") -> None:
        """The open step is over: with the optimizer's, if that was its last, or now."""
        if not self._step:
            return
        at = self._stepped or self.trace.moment()
        self._close(at)
        self._step.finish(failure, at)
        self._step = self._stepped = None
        self._fed = False

    def outside(self) -> None:
        """Something of the loop's own begins: after an optimizer's step it is between the steps."""
        if self._stepped:
            self.end_step()

    def note(self, **attributes: str | bool | float) -> None:
        """Attributes of the open step, such as its loss."""
        if self._step:
            self._step.set_attributes(**attributes)

    def _here(self) -> bool:
        """Whether this is the loop's thread: what others do is not of its steps."""
        return threading.get_ident() == self._thread

    def _listens(self) -> bool:
        return not self.optimizing and self._here()

    def _settle(self) -> None:
        """What has passed is put where it was."""
        found, self._gradient = self._gradient, None
        if found and self._step and not self._stepped:
            at, name = found
            self._move(name, at, self._phase.code if self._phase else "")
        self._commit()

    def _commit(self) -> None:
        """The fetches are of a step."""
        for fetch in self._fetches:
            resumed = self._phase.name if self._phase else ""
            if self._stepped:
                self.end_step()
            self._move(DATA, fetch.begun, fetch.code)
            self._fed = self._fed or not resumed
            if resumed:
                self._move(resumed, fetch.ended, fetch.code)
            else:
                self._close(fetch.ended)
        self._fetches.clear()

    def _move(self, name: str, at: Moment, code: str) -> None:
        """From one phase to another; a step begins with its first."""
        if not self._step:
            self.steps += 1
            self._step = self.trace.span(STEP, step=self.steps).begin(code, at)
        self._stepped = None
        self._close(at)
        self._phase = self.trace.span(name).begin(code, at)

    def _close(self, at: Moment) -> None:
        if self._phase:
            self._phase.finish(at=at)
            self._phase = None


def their_code(frame: FrameType) -> str:
    """The innermost line that is no library's: of the loop that is recorded."""
    found: FrameType | None = frame
    while found and found.f_globals.get("__name__", "").partition(".")[0] in LIBRARIES:
        found = found.f_back
    return encoded_code(found or frame)
