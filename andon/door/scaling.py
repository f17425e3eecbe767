"""Which gradients are under a loss scale."""

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from andon.door.safely import safely
from andon.door.wrapping import after

if TYPE_CHECKING:
    from andon.door.records import Run


class Scaling:
    """What torch's `GradScaler` has scaled, and not yet unscaled."""

    def __init__(self) -> None:
        self.active = self.ever = False
        self.loss: Any = None  # what was scaled last, as it was before
        self.unscaled: weakref.WeakSet[Any] = weakref.WeakSet()

    def install(self, run: "Run") -> None:
        """Note what scalers do."""
        for name in ("scale", "unscale_", "update"):
            after(torch.amp.grad_scaler.GradScaler, name, partial(safely, run, getattr(self, name)))

    def scale(self, scaler: Any, loss: Any, *_: Any) -> None:
        """A loss was scaled."""
        self.loss = loss
        self.active = scaler.is_enabled() and scaler.get_scale() != 1.0
        self.ever = self.ever or self.active

    def unscale_(self, _: Any, optimizer: Any, *__: Any) -> None:
        """An optimizer's gradients are themselves again."""
        self.unscaled.add(optimizer)

    def update(self, *_: Any) -> None:
        """A step is over."""
        self.unscaled.clear()
        self.active = False

    def scaled(self, optimizer: Any) -> bool:
        """Whether this optimizer's gradients are."""
        return self.active and optimizer not in self.unscaled
