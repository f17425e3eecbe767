"""Notes on backward passes: which loss they begin at, and what they add to."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from andon.door import places
from andon.door.records import Optimizing, Run
from andon.door.windows import Windows
from andon.door.wrapping import around

ENTRIES = 1024  # of one gradient that are looked at


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
                self.before(tensors)
                return backward(tensors, *args, **kwargs)
            finally:
                self._inside = False

        return noted

    def before(self, tensors: Any) -> None:
        """A backward pass begins."""
        self.run.backwards += 1
        loss = tensors if isinstance(tensors, Tensor) else next(iter(tensors), None)
        self.run.loss_place = places.here()
        for each in self.run.optimizing.values():
            _count(each)
            self._tell_watch(each, loss)
        self.windows.backward(loss)

    def _tell_watch(self, each: Optimizing, loss: Any) -> None:
        """The loss of the optimizer that stepped last; on another device a look at it would wait for it."""
        seen = isinstance(loss, Tensor) and loss.numel() == 1 and loss.device.type == "cpu"
        if seen and each.watch is not None and each.last_step == self.run.steps:
            each.watch.loss(float(loss.detach()))


def _count(each: Optimizing) -> None:
    window = each.window
    window.backwards += 1
    if window.clips and window.clips[-1].backwards and _carries(each.optimizer):
        window.grown_after_clip = True


def _carries(optimizer: Optimizer) -> bool:
    """Whether gradients that are there already will be added to."""
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None)
    first = next(gradients, None)
    return first is not None and bool(first.detach().reshape(-1)[:ENTRIES].any())
