"""Adam in float64, as the paper has it (Kingma & Ba 2015, algorithm 1), beside an optimizer that claims to be it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.observation.optimizers import adams, give_gradients, stepped
from andon.verify.observation.parameters import sharing_memory, trainable

RATE = 0.1  # where a group's own is 0, as in a warm-up's first step
MAGNITUDES = (-9.0, 2.0)  # powers of ten of the gradients that parity is measured on: both sides of eps
FACTORS = (1.0, -0.3, 2.0, 0.5)  # of those gradients, step by step


class _Moments(NamedTuple):
    """Where Adam stands with one weight, in float64."""

    mean: Tensor
    square: Tensor
    weight: Tensor


def worst_parity(model: nn.Module, optimizer: Any) -> tuple[float, str, int, float, float]:
    """Largest relative error over four steps from weights of 0; its parameter and step, and both values."""
    groups = _groups(model, optimizer)
    chosen = {key: model.get_parameter(key) for key in groups}
    generator = torch.Generator().manual_seed(0)
    first = {key: _of_all_magnitudes(parameter, generator) for key, parameter in chosen.items()}
    due = {key: _begun(parameter) for key, parameter in chosen.items()}
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
        group["lr"] = float(group["lr"]) or RATE  # a warm-up may begin at 0
    worst = (0.0, "", 0, 0.0, 0.0)
    for step, factor in enumerate(FACTORS, start=1):
        gradients = {key: tensor * factor for key, tensor in first.items()}
        give_gradients(model, gradients)
        stepped(optimizer)
        for key, parameter in chosen.items():
            due[key] = _adam(due[key], gradients[key].double(), groups[key], step)
            error, found, wanted = _furthest(parameter.detach(), due[key].weight, float(groups[key]["lr"]))
            if not error <= worst[0]:
                worst = (error, key, step, found, wanted)
    return worst


def _groups(model: nn.Module, optimizer: Any) -> dict[str, dict[str, Any]]:
    """The group of each trainable parameter that the optimizer holds as Adam's; of all, where none says so."""
    ours = adams(optimizer) or optimizer.param_groups
    groups = {id(tensor): group for group in ours for tensor in group["params"]}
    shared = sharing_memory(model)
    real = {key: p for key, p in trainable(model).items() if p.is_floating_point() and key not in shared}
    return {key: groups[id(parameter)] for key, parameter in real.items() if id(parameter) in groups}


def _of_all_magnitudes(parameter: Tensor, generator: torch.Generator) -> Tensor:
    powers = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
    size = 10 ** (MAGNITUDES[0] + (MAGNITUDES[1] - MAGNITUDES[0]) * powers)
    return (size * signs).to(parameter.device, parameter.dtype)


def _begun(parameter: nn.Parameter) -> _Moments:
    """Put a weight at 0, in place, where Adam begins with it."""
    with torch.no_grad():
        parameter.zero_()
    zero = torch.zeros_like(parameter, dtype=torch.float64)
    return _Moments(zero, zero, zero)


def _adam(at: _Moments, gradient: Tensor, group: Mapping[str, Any], step: int) -> _Moments:
    """One step of Adam, as the paper has it."""
    beta1, beta2 = (float(beta) for beta in group["betas"])
    mean = beta1 * at.mean + (1 - beta1) * gradient
    square = beta2 * at.square + (1 - beta2) * gradient.square()
    corrected, root = mean / (1 - beta1**step), (square / (1 - beta2**step)).sqrt()
    return _Moments(mean, square, at.weight - float(group["lr"]) * corrected / (root + group["eps"]))


def _furthest(found: Tensor, due: Tensor, rate: float) -> tuple[float, float, float]:
    """The largest relative error of an entry, and both values there."""
    errors = (found.double() - due).abs() / (due.abs() + 1e-2 * rate)
    largest = int(errors.argmax())
    return float(errors.flatten()[largest]), float(found.flatten()[largest]), float(due.flatten()[largest])
