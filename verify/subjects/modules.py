"""Any torch module with a loss, in three arguments."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..subject import Batch, Subject


def module(
    model: nn.Module | Callable[[], nn.Module],
    loss: Callable[[nn.Module, Batch], Tensor],
    batch: Batch | Callable[[torch.Generator], Batch],
    **parts: Any,
) -> Subject:
    """A subject of a module, the loss of it on a batch, and a batch: `module(net, lambda net, batch: ..., (x, y))`.

    A module class or a function that makes one also shows what initial weights are; a batch may be a function of a
    generator. `parts` are further parts of `Subject`.

    Raises:
        SubjectError: a part is of a type that no check can use.
    """
    made = type(model) if isinstance(model, nn.Module) else model
    given: dict[str, Any] = {"name": getattr(made, "__name__", "module"), "model": model, "batch": batch, "loss": loss}
    return Subject(**given | parts)
