"""Numbers that a pass makes of what learns, and that nothing takes up."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from andon.verify.access.batches import tensors_in
from andon.verify.access.calls import loss_of, seeded
from andon.verify.observation.graph import nodes_of
from andon.verify.observation.lines import users_line
from andon.verify.subject import Batch, Subject


def unused_scalars(subject: Subject, model: nn.Module, batch: Batch) -> dict[str, float]:
    """Single numbers with a gradient that are no part of the loss and are not read either, by the line that made them.

    A metric is read (`item`, `detach`) or made without gradients; a term that was forgotten is neither.
    """
    with seeded(), torch.enable_grad(), _Scalars() as seen:
        loss = loss_of(subject, model, batch)
    if loss.grad_fn is None:
        return {}
    used = set(nodes_of(loss))
    left = [(value, line) for value, line in seen.made.values() if value is not loss and value.grad_fn not in used]
    return {line: float(value.detach()) for value, line in left}


class _Scalars(TorchFunctionMode):
    """Keeps single numbers until something takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[Tensor, str]] = {}  # by identity, which they keep while they are kept

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        for each in tensors_in((*args, *kwargs.values())):
            self.made.pop(id(each), None)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and not result.dim() and result.requires_grad and result.is_floating_point():
            self.made[id(result)] = result, users_line()
        return result
