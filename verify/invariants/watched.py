"""What all invariants see of a run: its model, its optimizer, the step, and samples of tensors."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

ENTRIES = 64  # sampled of one tensor
TENSORS = 4  # sampled in one step
EVERY = 10  # steps between readings of which tensors there are
PATIENCE = 5  # steps of the same batch or loss, or without a gradient, before it is not chance


class Invariant(Protocol):
    """One thing that holds in any sound loop."""

    def before(self) -> None:
        """Before the optimizer's step: gradients are there, weights have not moved."""
        ...

    def after(self) -> None:
        """After the optimizer's step."""
        ...


class Watched:
    """A model and its optimizer in training. `found(kind, message, look)` reports what is red, `found(..., light)`."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, found: Callable[..., None]) -> None:
        self.model, self.optimizer, self.found = model, optimizer, found
        self.steps = 0
        self.parameters = dict(model.named_parameters())
        self._places: dict[tuple[str, torch.Size], tuple[Tensor, ...]] = {}

    @property
    def is_due(self) -> bool:
        """Whether this step reads anew which tensors there are."""
        return self.steps % EVERY == 0

    def begin_step(self) -> None:
        """Count a step; now and then, read the model's parameters anew."""
        self.steps += 1
        if self.is_due:
            self.parameters = dict(self.model.named_parameters())

    def turn(self, names: list[str]) -> list[str]:
        """A few names, others each step."""
        start = self.steps * TENSORS % max(len(names), 1)
        return [*names[start:], *names[:start]][:TENSORS]

    def get(self, name: str) -> Tensor | None:
        """The parameter that a name now stands for."""
        module, _, own = name.rpartition(".")
        return getattr(self.model.get_submodule(module), own, None)

    def sample(self, name: str, tensor: Tensor) -> Tensor:
        """A few entries, the same each time; whatever the strides, no more is read."""
        key = name, tensor.shape
        if key not in self._places:
            generator = torch.Generator().manual_seed(0)
            self._places[key] = tuple(
                torch.randint(size, (ENTRIES,), generator=generator).to(tensor.device) for size in tensor.shape
            )
        return tensor.detach()[self._places[key]] if tensor.dim() else tensor.detach().reshape(1).clone()
