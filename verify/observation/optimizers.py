"""What an optimizer holds, what it calls itself, and what it keeps of past gradients."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.observation.parameters import State, fitted, trainable

ADAM = re.compile(r"_?(torch|fused|cpu|my|own|simple|plain|hand|custom)?_?adamw?", re.IGNORECASE)
FADED = 1e-3  # by which what is left of a running mean may be off
FADES = ("beta", "alpha", "rho")  # in the names of other rates at which something fades


def innermost(optimizer: Any) -> Any:
    """The optimizer that a wrapper (of Accelerate's kind) steps."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def tensors_of(optimizer: Any) -> list[Tensor]:
    """All tensors that an optimizer updates, as often as it lists them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def adams(optimizer: Any) -> list[dict[str, Any]]:
    """The groups that are Adam's: all of one that is Adam by its name, else those that name it as a word of theirs."""
    if claims_adam(optimizer):
        return list(optimizer.param_groups)
    return [
        group for group in optimizer.param_groups
        if "betas" in group and "eps" in group and not group.get("amsgrad") and not group.get("maximize")
        if any(isinstance(value, str) and ADAM.fullmatch(value) for value in group.values())
    ]  # fmt: skip


def claims_adam(optimizer: Any) -> bool:
    """Whether the optimizer, by its name, is Adam or AdamW and no relative, in a form that can be compared."""
    groups = optimizer.param_groups
    known = all("betas" in group and "eps" in group for group in groups)
    special = any(group.get("amsgrad") or group.get("maximize") for group in groups)
    return known and not special and ADAM.fullmatch(type(optimizer).__name__) is not None


def give_gradients(model: nn.Module, gradients: State | dict[str, float]) -> None:
    """Put these gradients, or constants, into the parameters' `.grad`; zero where none is named."""
    for key, parameter in trainable(model).items():
        value = gradients.get(key, 0.0)
        parameter.grad = value.clone() if isinstance(value, Tensor) else torch.full_like(parameter, value)


def has_momentum(group: Mapping[str, Any]) -> bool:
    """Whether a group of an optimizer names a momentum."""
    return 0 < float(group.get("momentum") or 0.0) < 1


def kept_of(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """Copies of the floating tensors that an optimizer keeps of a parameter, of its shape."""
    state = optimizer.state.get(parameter, {})
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return {key: value.detach().double().clone() for key, value in tensors.items() if value.shape == parameter.shape}


def remaining_shares(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """What is left of each tensor that has faded as a whole."""
    left = {key: fitted({key: after[key]}, {key: old}) for key, old in before.items() if key in after and old.any()}
    return {
        key: share
        for key, share in left.items()
        if FADED < share < 1 - FADED and float((after[key] - share * before[key]).norm()) < FADED * after[key].norm()
    }


def fading_rates(group: Mapping[str, Any]) -> list[float]:
    """The rates at which a group says that something fades."""
    rates = [value for option, value in group.items() if option == "momentum" or any(w in option for w in FADES)]
    return [float(each) for value in rates for each in (value if isinstance(value, tuple | list) else [value])]
