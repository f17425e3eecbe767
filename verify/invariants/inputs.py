"""What goes in and comes out: batches differ from step to step, and so does the loss."""

import math
from typing import Any

from torch import Tensor

from andon.verify.invariants.watched import PATIENCE, Watched
from andon.verify.run.report import RED, YELLOW


class DifferentBatches:
    """Steps do not begin with the same batch, several times in a row: all integers that the model is given count."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._batch: list[list[int]] | None = None  # of the first forward pass since the last step
        self._last: list[list[int]] | None = None
        self._repeats = 0

    def note(self, inputs: tuple[Any, ...]) -> None:
        """Keep a sample of what a forward pass is given, if it is the step's first."""
        if self._batch is None and self.watched.is_close:
            ids = [each for each in inputs if isinstance(each, Tensor) and not each.is_floating_point() and each.dim()]
            found = [self.watched.sample(f"ids {at}", each).tolist() for at, each in enumerate(ids) if each.numel()]
            self._batch = found or None

    def before(self) -> None:
        """Compare the step's batch with the last one's."""
        same = self._batch is not None and self._batch == self._last
        self._repeats = self._repeats + 1 if same else 0
        self._last, self._batch = self._batch, None
        if self._repeats >= PATIENCE:
            self.watched.found(
                "batches",
                f"the last {self._repeats + 1} steps began with the same batch",
                "Look at the loader's iterator: `next(iter(loader))` starts anew each time.",
                YELLOW,  # whoever fits one batch on purpose does so
            )

    def after(self) -> None:
        """Nothing."""


class MovingLoss:
    """The loss is finite, and not one number for ever. It comes with forward passes, or is told."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._values: list[float] = []

    def note(self, value: float) -> None:
        """Judge the next value."""
        if not math.isfinite(value):
            look = "Look at the last batch, the rate and the gradient's norm."
            self.watched.found("finite", f"the loss is {value}", look)
        self._values = [*self._values[-PATIENCE:], value]
        if len(self._values) > PATIENCE and len(set(self._values)) == 1:
            self.watched.found(
                "loss",
                f"the loss was {value!r} in each of the last {len(self._values)} evaluations",
                "Look for weights that no step moves and for a loss that does not depend on them.",
                RED if value else YELLOW,  # margins that are kept and rewards that are all alike make it zero
            )
