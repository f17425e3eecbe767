"""Comparisons of numbers with targets of another shape, which torch repeats along each other."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from andon.verify.access.calls import loss_of, seeded
from andon.verify.observation.lines import users_line
from andon.verify.subject import Batch, Subject

LOSSES: dict[Any, str] = {
    functional.mse_loss: "mse_loss",
    functional.l1_loss: "l1_loss",
    functional.smooth_l1_loss: "smooth_l1_loss",
    functional.huber_loss: "huber_loss",
}


class Repeated(NamedTuple):
    """A loss of torch's, and the shapes that it was given."""

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    line: str

    @property
    def result(self) -> tuple[int, ...]:
        """The shape in which it compares."""
        return tuple(torch.broadcast_shapes(*self.shapes))


def repeated_losses(subject: Subject, model: nn.Module, batch: Batch) -> list[Repeated]:
    """The losses in a pass whose input and target are both repeated along each other."""
    with seeded(), _Losses() as seen:
        loss_of(subject, model, batch)
    return seen.found


class _Losses(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Repeated] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        if func in LOSSES:
            given = [*args, *(kwargs[name] for name in ("input", "target") if name in kwargs)][:2]
            if len(given) == 2 and all(isinstance(each, Tensor) for each in given):
                made = Repeated(LOSSES[func], (tuple(given[0].shape), tuple(given[1].shape)), users_line())
                if all(torch.Size(made.result).numel() > each.numel() for each in given):
                    self.found.append(made)
        return func(*args, **kwargs)
