"""Any torch module with a loss, in three arguments."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.logits import logits_of
from andon.verify.subject import Batch, Subject


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


def under_autocast(subject: Subject, dtype: torch.dtype = torch.bfloat16) -> Subject:
    """The subject, whose forward passes run under autocast."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return subject.loss(model, batch)

    def logits(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return logits_of(subject, model, batch)

    return replace(subject, name=f"{subject.name} under autocast", loss=loss, logits=logits)
