"""What all invariants see of a run: its model, its optimizer, the step, and samples of tensors."""

import cmath
import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

ENTRIES = 64  # sampled of one tensor
TENSORS = 4  # sampled in one step
EVERY = 10  # steps between readings of which tensors there are
FIRST, IN_A_ROW, OUT_OF = 48, 8, 32  # steps that are all looked at closely, and then some in a row of so many
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
        self._flat: dict[tuple[str, torch.Size], Tensor] = {}  # the same in a tensor without gaps: half the time

    @property
    def is_due(self) -> bool:
        """Whether this step reads anew which tensors there are."""
        return self.steps % EVERY == 0

    @property
    def is_close(self) -> bool:
        """Whether the step that begins or ends now is looked at closely: what a loop does wrong it does again."""
        return self.steps <= FIRST or self.steps % OUT_OF < IN_A_ROW

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
        """A few entries, the same each time, complex ones in two parts; whatever the strides, no more is read."""
        taken = self._taken(name, tensor.detach())
        return torch.view_as_real(taken).flatten() if taken.is_complex() else taken

    def _taken(self, name: str, tensor: Tensor) -> Tensor:
        key = name, tensor.shape
        if not tensor.dim():
            return tensor.reshape(1).clone()
        if key not in self._places:
            self._choose(key, tensor.device)
        if type(tensor) is Tensor and tensor.is_contiguous():
            return tensor.take(self._flat[key])
        return tensor[self._places[key]]

    def _choose(self, key: tuple[str, torch.Size], device: torch.device) -> None:
        """Entries of a tensor of this name and shape."""
        generator = torch.Generator().manual_seed(0)
        places = [torch.randint(size, (ENTRIES,), generator=generator) for size in key[1]]
        steps = [math.prod(key[1][at + 1 :]) for at in range(len(places))]
        flat = torch.stack([place * step for place, step in zip(places, steps, strict=True)]).sum(0)
        self._places[key], self._flat[key] = tuple(each.to(device) for each in places), flat.to(device)


def is_finite(sample: Tensor) -> bool:
    """Whether all entries are; a finite sum says so in one pass."""
    return cmath.isfinite(sample.sum().item()) or bool(sample.isfinite().all())
