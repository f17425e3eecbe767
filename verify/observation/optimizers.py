"""What an optimizer holds, what it calls itself, and what it keeps of past gradients."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.errors import NotApplicable
from andon.verify.observation.parameters import State, fitted, trainable

ADAM = re.compile(r"_?(torch|fused|cpu|my|own|simple|plain|hand|custom)?_?adamw?", re.IGNORECASE)
FADED = 1e-3  # by which what is left of a running mean may be off
NEAR = {torch.bfloat16: 2e-2, torch.float16: 2e-2}  # of a running mean after a first update; else:
EXACT = 1e-4
FADES = ("beta", "alpha", "rho")  # in the names of other rates at which something fades


def innermost(optimizer: Any) -> Any:
    """The optimizer that a wrapper (of Accelerate's kind) steps."""
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def asks_again(optimizer: Any) -> bool:
    """Whether the optimizer cannot step without a function that gives it the loss again."""
    try:
        given = inspect.signature(optimizer.step).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(each.name == "closure" and each.default is each.empty for each in given)


def stepped(optimizer: Any) -> None:
    """One step on the gradients that are there.

    Raises:
        NotApplicable: the optimizer asks for more, as for a function that gives it the loss again.
    """
    try:
        optimizer.step()
    except Exception as error:
        raise NotApplicable(f"an optimizer that steps on given gradients alone ({error})") from error


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
    special = any(group.get("amsgrad") or group.get("maximize") or _leaves_bias(group) for group in groups)
    return known and not special and ADAM.fullmatch(type(optimizer).__name__) is not None


def _leaves_bias(group: Mapping[str, Any]) -> bool:
    """Whether a group says that bias is not corrected, as BERT's Adam does not."""
    return any(value is False and "bias" in option for option, value in group.items())


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


def mean_key(optimizer: Any, model: nn.Module, gradients: State) -> str:
    """What Adam's running mean of gradients goes by in its state: what it is after a first update; empty if nothing."""
    if claims_adam(optimizer):
        return "exp_avg"
    return _key_of(optimizer, model, gradients, 0, lambda gradient: gradient)


def square_key(optimizer: Any, model: nn.Module, gradients: State) -> str:
    """The same of the running mean of squares."""
    return _key_of(optimizer, model, gradients, 1, torch.square)


def _key_of(optimizer: Any, model: nn.Module, gradients: State, place: int, of: Callable[[Tensor], Tensor]) -> str:
    """The state that is (1 - beta) times this function of the gradient, for every parameter with a beta."""
    keys: set[str] | None = None
    betas = _betas(optimizer)
    for name, parameter in trainable(model).items():
        if name not in gradients or id(parameter) not in betas or not bool(gradients[name].any()):
            continue
        due = (1 - float(betas[id(parameter)][place])) * of(gradients[name].double())
        allowed = NEAR.get(parameter.dtype, EXACT)
        near = {key for key, kept in kept_of(optimizer, parameter).items() if _is_near(kept, due, allowed)}
        keys = near if keys is None else keys & near
    return min(keys or {""})


def _betas(optimizer: Any) -> dict[int, tuple[float, float]]:
    """The two betas of each parameter, by its identity, where its group has two."""
    groups = [group for group in optimizer.param_groups if len(group.get("betas", ())) == 2]
    return {id(parameter): group["betas"] for group in groups for parameter in group["params"]}


def _is_near(kept: Tensor, due: Tensor, allowed: float) -> bool:
    return float((kept - due).norm()) <= allowed * float(due.norm())


def fading_rates(group: Mapping[str, Any]) -> list[float]:
    """The rates at which a group says that something fades."""
    rates = [value for option, value in group.items() if option == "momentum" or any(w in option for w in FADES)]
    return [float(each) for value in rates for each in (value if isinstance(value, tuple | list) else [value])]
