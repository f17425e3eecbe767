"""A recorded run of Hugging Face's `Trainer`: `Trainer(..., callbacks=[TraceCallback("runs/mine")])`.

`Trainer` reads all batches of a step before it says that the step begins. What it does before that is said when it has
ended, by an event of its own: so a step's data is what lies between the last event and the step's begin.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from andon.tracing.loop import Loop, run
from andon.tracing.phases import Fetch, their_code
from andon.tracing.spans import Moment


class TraceCallback(TrainerCallback):
    """Records steps and phases into `trace.jsonl` in a folder, and to an endpoint if one is named."""

    def __init__(self, folder: str | Path, *, otlp: str | None = None) -> None:
        self.folder, self.otlp = folder, otlp
        self.loop: Loop | None = None
        self._stack = ExitStack()
        self._last: Moment | None = None  # event
        self._evaluating: Moment | None = None  # since when

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Open the trace, and watch what is trained."""
        del args, control
        self._stack.close()
        self.loop = self._stack.enter_context(run(self.folder, otlp=self.otlp))
        self.loop.phases.steps = state.global_step
        optimizer = given["optimizer"]
        self.loop.watch(given["model"], getattr(optimizer, "optimizer", optimizer))
        self._said()

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The step's batches have been read."""
        del args, state, control, given
        if self.loop and self._last:
            code = their_code(sys._getframe(1))  # noqa: SLF001 - as in `spans`
            self.loop.phases.fed(Fetch(self._last, self.loop.trace.moment(), code))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The step is over; what was logged, saved or evaluated before the next one's data says so itself."""
        del args, state, control, given
        if self.loop:
            self.loop.phases.ends_here()
        self._said()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """An evaluation goes on."""
        del args, state, control, given
        self._evaluating = self._evaluating or self._last

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """An evaluation has ended."""
        del args, state, control, given
        self._add("validation", self._evaluating)
        self._evaluating = None

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """A checkpoint has been written."""
        del args, state, control, given
        self._add("checkpoint", self._last)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Something has been logged."""
        del args, state, control, given
        self._said()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """From here on the loader is read."""
        del args, state, control, given
        self._said()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Close the trace."""
        del args, state, control, given
        self._stack.close()
        self.loop = None

    def _said(self) -> None:
        self._last = self.loop.trace.moment() if self.loop else None

    def _add(self, name: str, begun: Moment | None) -> None:
        """What has passed between two steps."""
        if self.loop and begun:
            span = self.loop.span(name).begin(their_code(sys._getframe(1)), begun)  # noqa: SLF001 - as in `spans`
            span.finish()
        self._said()
