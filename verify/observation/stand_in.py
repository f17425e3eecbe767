"""An optimizer of the same class on a few small tensors: what it makes of given gradients, setting by setting."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import seeded
from andon.verify.errors import NotApplicable
from andon.verify.observation.optimizers import kept_of, stepped
from andon.verify.observation.parameters import State, parameters, trainable

SHAPE = (6, 4)
STEPS = 8  # after which each setting has had its part: some begin a few steps late
SMALLEST = -9.0  # power of ten of a gradient, at which even a small eps tells
MADE_AGAIN = "an optimizer of a class that can be made again from its defaults"


class StandIn(nn.Module):
    """Two matrices of one shape, of different scale, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.one = nn.Parameter(torch.randn(SHAPE, generator=generator))
        self.other = nn.Parameter(0.01 * torch.randn(SHAPE, generator=generator))
        self.vector = nn.Parameter(torch.ones(SHAPE[1]))


def remade(optimizer: Any, model: nn.Module, **changed: Any) -> Any:
    """An optimizer of this one's class and defaults, but for what is changed, over a stand-in's parameters.

    Raises:
        NotApplicable: its class cannot be made so.
    """
    given = inspect.signature(type(optimizer).__init__).parameters
    defaults = {**getattr(optimizer, "defaults", {}), **changed}
    groups = [{"params": list(model.parameters())}]
    try:
        made = type(optimizer)(groups, **{key: defaults[key] for key in defaults if key in given})
    except Exception as error:
        raise NotApplicable(f"{MADE_AGAIN} ({error})") from error
    for group in made.param_groups:
        group.update({key: value for key, value in changed.items() if key not in given})
    return made


def outcome(optimizer: Any, **changed: Any) -> list[Tensor]:
    """Weights and states after some steps on given gradients, at these settings."""
    model = StandIn()
    made, generator = remade(optimizer, model, **changed), torch.Generator().manual_seed(1)
    with seeded():
        for _ in range(STEPS):
            _give(model, {name: _spread(p, generator) for name, p in trainable(model).items()})
            stepped(made)
    kept = [tensor for p in trainable(model).values() for _, tensor in sorted(kept_of(made, p).items())]
    return [*parameters(model).values(), *kept]


def first_shifts(optimizer: Any, scaled: str = "") -> State:
    """How a first step moves each tensor; one of them may be given another gradient, a hundred times as large."""
    model = StandIn()
    made, generator = remade(optimizer, model), torch.Generator().manual_seed(2)
    before = parameters(model)
    given = {name: torch.randn(p.shape, generator=generator) for name, p in trainable(model).items()}
    given |= {name: 100 * torch.randn(g.shape, generator=generator) for name, g in given.items() if name == scaled}
    _give(model, given)
    with seeded():
        stepped(made)
    return {name: p.detach().double() - before[name].double() for name, p in model.named_parameters()}


def _give(model: nn.Module, gradients: State) -> None:
    for name, parameter in trainable(model).items():
        parameter.grad = gradients[name].to(parameter)


def _spread(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """A gradient of all magnitudes."""
    powers = SMALLEST * torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
    return torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 10**powers
