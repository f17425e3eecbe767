"""Notes on backward passes: which loss they begin at, and what they add to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from andon.door import places
from andon.door.gradient_sample import sample
from andon.door.places import Place
from andon.door.precision import half_of
from andon.door.records import Optimizing, Run
from andon.door.safely import safely
from andon.door.windows import Windows
from andon.verify.capturing.replacing import around

PASSES = 32  # of which the dtype is looked at
LOOKED_AT = 8  # steps of an optimizer in which gradients are compared


class BackwardNotes:
    """What is noted of each backward pass that a script begins."""

    def __init__(self, run: Run, windows: Windows) -> None:
        self.run, self.windows = run, windows
        self._inside = False  # `Tensor.backward` calls `torch.autograd.backward`

    def install(self) -> None:
        """Note both ways to begin one."""
        around(Tensor, "backward", self._around)
        around(torch.autograd, "backward", self._around)

    def _around(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        def noted(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self._inside or self.run.over:
                return backward(tensors, *args, **kwargs)
            self._inside = True
            try:
                safely(self.run, self.before, tensors)
                result = backward(tensors, *args, **kwargs)
            finally:
                self._inside = False
            safely(self.run, self.after)
            return result

        return noted

    def before(self, tensors: Any) -> None:
        """A backward pass begins."""
        self.run.backwards += 1
        if self.run.inside:
            self.run.loops.add(self.run.inside)
            self.run.inside = None
        loss = tensors if isinstance(tensors, Tensor) else next(iter(tensors), None)
        self.run.loss_place = places.here()
        if self.run.trail is not None:
            self.run.trail.note_loss(loss)
        for each in self.run.optimizing.values():
            _count(each, self.run.loss_place)
            self._tell_watch(each, loss)
            if each.window.backwards == 1:
                each.between.training(each.optimizer)
        self.run.loose.backward(self.run, loss)
        self._look_at(loss)
        self.run.flatness.begin(self.run, loss)
        self.windows.backward(loss)

    def after(self) -> None:
        """It has ended: in the first steps, keep what it left."""
        self.windows.backward_ended()
        for each in self.run.optimizing.values():
            if each.steps < LOOKED_AT:
                each.window.gradient = sample(each.optimizer)
                each.window.leftovers.end(each.window.gradient, self.run.loss_place)

    def _look_at(self, loss: Any) -> None:
        """What the loss was computed in, of the first backward passes; one from many numbers begins at no loss."""
        scaled, self.run.scaling.loss = self.run.scaling.loss, None
        loss = scaled if isinstance(scaled, Tensor) else loss
        if isinstance(loss, Tensor) and loss.numel() == 1 and self.run.backwards <= PASSES:
            self.run.losses[self.run.loss_place, half_of(loss)] += 1

    def _tell_watch(self, each: Optimizing, loss: Any) -> None:
        """The loss of the optimizer that stepped last; on another device a look at it would wait for it."""
        seen = isinstance(loss, Tensor) and loss.numel() == 1 and loss.device.type == "cpu"
        if seen and each.watch is not None and each.last_step == self.run.steps:
            each.watch.loss(float(loss.detach()))


def _count(each: Optimizing, line: Place | None) -> None:
    """A backward pass begins, which may add to gradients that are there."""
    window = each.window
    clipped = bool(window.clips and window.clips[-1].backwards)
    before = sample(each.optimizer) if clipped or each.steps < LOOKED_AT else None
    if each.steps < LOOKED_AT:
        window.leftovers.begin(before)
    carries, alike = _is_there(before), line == window.line
    window.grown_after_clip |= clipped and carries
    window.grown_alike |= clipped and carries and alike
    window.added += carries and alike
    window.dropped += _is_there(window.gradient) and not carries and alike
    window.backwards += 1
    window.line = line


def _is_there(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.any())
