"""What an optimizer keeps of past gradients."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.runs import RATE, Held, each_optimizer
from andon.verify.observation.step_trace import fitted, parameters, trainable
from andon.verify.subject import Subject

FADED = 1e-3  # by which what is left of a running mean may be off
FADES = ("beta", "alpha", "rho")  # in the names of other rates at which something fades


@each_optimizer
def check_memory(_: Subject, held_by: Held) -> None:
    """The momentum buffer decays at a rate its group names, and moves the weights even in a step with zero gradients.

    Silent because steps along each gradient alone, or along a mean that forgets at once, go downhill as well.

    Look at the weights of old and new in the running mean (`lerp_`), and at whether the update is made from the buffer
    or from the gradient.

    Example:
        # wrong: old and new have changed places, so a momentum of 0.95 keeps 5 % of the past
        buffer.lerp_(p.grad, group["momentum"])
        p.add_(buffer, alpha=-group["lr"])

        # right
        buffer.lerp_(p.grad, 1 - group["momentum"])
        p.add_(buffer, alpha=-group["lr"])

    Reference: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", section 2.
    """
    name, model, optimizer = held_by
    groups = {id(p): group for group in optimizer.param_groups if _has_momentum(group) for p in group["params"]}
    kept = {key: p for key, p in trainable(model).items() if id(p) in groups}
    if not kept:
        raise NotApplicable("a group of the optimizer with a momentum")
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
        group["lr"] = float(group["lr"]) or RATE
    _step(model, optimizer, 1.0)
    before, weights = {key: _kept(optimizer, p) for key, p in kept.items()}, parameters(model)
    _step(model, optimizer, 0.0)
    for key, parameter in kept.items():
        shares = _shares(before[key], _kept(optimizer, parameter))
        _require_memory(name, key, shares, groups[id(parameter)])
        if shares and torch.equal(weights[key], parameter):
            raise CheckFailed(
                f"{name}: {key} has a running {next(iter(shares))} of past gradients, and a step without a gradient "
                "moves it by 0"
            )


def _has_momentum(group: Mapping[str, Any]) -> bool:
    return 0 < float(group.get("momentum") or 0.0) < 1


def _step(model: nn.Module, optimizer: Any, size: float) -> None:
    """One step with gradients of this size."""
    generator = torch.Generator().manual_seed(0)
    for parameter in trainable(model).values():
        parameter.grad = size * torch.randn(parameter.shape, generator=generator).to(parameter)
    optimizer.step()


def _kept(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """Copies of the floating tensors that an optimizer keeps of a parameter, of its shape."""
    state = optimizer.state.get(parameter, {})
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return {key: value.detach().double().clone() for key, value in tensors.items() if value.shape == parameter.shape}


def _shares(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """What is left of each tensor that has faded as a whole."""
    left = {key: fitted({key: after[key]}, {key: old}) for key, old in before.items() if key in after and old.any()}
    return {
        key: share
        for key, share in left.items()
        if FADED < share < 1 - FADED and float((after[key] - share * before[key]).norm()) < FADED * after[key].norm()
    }


def _named(group: Mapping[str, Any]) -> list[float]:
    """The rates at which a group says that something fades."""
    rates = [value for option, value in group.items() if option == "momentum" or any(w in option for w in FADES)]
    return [float(each) for value in rates for each in (value if isinstance(value, tuple | list) else [value])]


def _require_memory(name: str, key: str, shares: Mapping[str, float], group: Mapping[str, Any]) -> None:
    """Fail where a running mean fades at a rate that its group does not name."""
    for kind, share in shares.items():
        if min(abs(share - rate) for rate in _named(group)) > FADED:
            raise CheckFailed(
                f"{name}: of the running {kind} of {key} a step without a gradient leaves {share:.4g}; the group's "
                f"momentum is {group['momentum']}"
            )
