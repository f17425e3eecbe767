"""Which optimizers move a tensor that several of them hold."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from andon.door.idle import ENTRIES
from andon.verify.observation.optimizers import tensors_of

STEPS = 64  # of an optimizer that are looked at
MOST = 8  # tensors


@dataclass
class Turn:
    """A tensor, and who moved it."""

    tensor: Tensor
    movers: list[int] = field(default_factory=list)  # ids of optimizers, each once, the last one at the end
    returns: int = 0  # how often one moved it that had moved it before another did

    def moved(self, by: int) -> None:
        """An optimizer has moved it."""
        self.returns += by in self.movers[:-1]
        self.movers = [each for each in self.movers if each != by] + [by]


class Turns:
    """What moves by turns; a step within another's step, as a wrapper makes it, is a part of that."""

    def __init__(self) -> None:
        self.of: dict[int, Turn] = {}
        self._stepping: list[int] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, each: Any, others: list[Any]) -> None:
        """An optimizer is about to step, beside others; each is an Optimizing."""
        own = id(each.optimizer)
        self._stepping = [*self._stepping[: self._place(own)], own]
        if len(self._stepping) > 1:
            return
        self._before = {}
        if each.steps < STEPS and others:
            known = {id(p) for other in others for p in tensors_of(other.optimizer)}
            shared = [p for p in tensors_of(each.optimizer) if id(p) in known][:MOST]
            self._before = {id(p): (p, _first(p).clone()) for p in shared}

    def end(self, each: Any) -> None:
        """It has stepped."""
        own = id(each.optimizer)
        if self._place(own) == 0:
            for key, (p, before) in self._before.items():
                if not torch.equal(before, _first(p)):
                    self.of.setdefault(key, Turn(p)).moved(own)
        self._stepping = self._stepping[: self._place(own)]

    def _place(self, own: int) -> int:
        """Of an optimizer among those whose steps go on; a step that an error ended is one no more."""
        return self._stepping.index(own) if own in self._stepping else len(self._stepping)


def _first(p: Tensor) -> Tensor:
    return p.detach().reshape(-1)[:ENTRIES]
