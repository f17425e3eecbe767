"""Gradients whose loss another optimizer's step has answered already, and that a later loss adds to."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from andon.door.places import Place

Line = Place | None


@dataclass
class Leftovers:
    """What one optimizer's gradients are made of since its last step, told by a sample of them."""

    reached: set[Line] = field(default_factory=set)  # lines of the backward passes that gave it gradients
    taken: set[Line] = field(default_factory=set)  # of those, which another optimizer's step took
    mixed: tuple[Line, Line] | None = None  # one of these, and another line whose pass added to its gradients
    _before: Tensor | None = None

    def begin(self, before: Tensor | None) -> None:
        """A backward pass begins, with these gradients."""
        self._before = before
        if before is None or not bool(before.any()):
            self.reached, self.taken, self.mixed = set(), set(), None

    def end(self, now: Tensor | None, line: Line) -> None:
        """It has ended, with these."""
        if _are_alike(self._before, now):
            return
        others = sorted(self.taken - {line}, key=str)
        self.mixed = (others[0], line) if others else self.mixed
        self.reached.add(line)

    def took(self, reached: set[Line]) -> None:
        """Another optimizer has stepped, by gradients of these lines."""
        self.taken |= self.reached & reached


def _are_alike(before: Tensor | None, now: Tensor | None) -> bool:
    if before is None or now is None:
        return before is now
    return before.shape == now.shape and torch.equal(before, now)
