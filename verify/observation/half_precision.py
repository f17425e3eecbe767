"""The half precision that a subject works in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.batches import tensors_in
from andon.verify.access.calls import loss_of, new_batch, new_model
from andon.verify.errors import NotApplicable, left_out_by
from andon.verify.observation.dispatch import DispatchMode
from andon.verify.subject import Subject

HALVES = (torch.bfloat16, torch.float16)


def low_dtype(subject: Subject) -> torch.dtype:
    """The half precision that the subject works in: of its parameters, or of autocast within its loss.

    Raises:
        NotApplicable: it works in none, or in no other.
    """
    if subject.dtype is not None:
        raise left_out_by("dtype", subject.dtype, "a model that runs in other dtypes")
    model, batch = new_model(subject).eval(), new_batch(subject)
    own = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype.itemsize == 2}
    seen: set[torch.dtype] = set(own)

    def note(_module: nn.Module, _args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.dtype.itemsize == 2:
            seen.add(output.dtype)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            loss_of(subject, model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not seen:
        raise NotApplicable("a model in bfloat16 or float16, or under autocast")
    return seen.pop()


class HalfPrecision(DispatchMode):
    """Within `with`, notes the half precisions that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its operations."""
        output = func(*args, **(kwargs or {}))
        self.seen += [each.dtype for each in tensors_in(output) if each.dtype in HALVES and each.dtype not in self.seen]
        return output


def has_halves(model: nn.Module) -> bool:
    """Whether any parameter is in half precision."""
    return any(parameter.dtype in HALVES for parameter in model.parameters())


def is_wide(model: nn.Module) -> bool:
    """Whether all parameters are float32 or wider."""
    return all(p.dtype.itemsize >= 4 for p in model.parameters() if p.is_floating_point())


def device_of(model: nn.Module) -> str:
    """The kind of device that a model is on, as autocast takes it."""
    return next(model.parameters()).device.type
