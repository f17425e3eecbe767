"""Low-rank adapters that are combined into one by a singular value decomposition."""

from typing import Any

import torch
from torch import Tensor, nn

from andon.verify import Adapters, Subject
from tests.reports.small import Decoder, draw, loss

BUG = "adapters combined by a singular value decomposition act with their scale twice"


class Adapted(nn.Module):
    """A frozen linear layer and an adapter of low rank beside it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def change(self) -> Tensor:
        """What the adapter adds to the weight."""
        return self.scale * self.lora_B @ self.lora_A

    def forward(self, x: Tensor) -> Tensor:
        """Both paths."""
        return self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)


def add(model: Any, rank: int, alpha: float) -> nn.Module:
    """Adapters on queries and values."""
    model.requires_grad_(False)
    for layer in model.layers:
        layer.query, layer.value = Adapted(layer.query, rank, alpha), Adapted(layer.value, rank, alpha)
    return model


@torch.no_grad()
def combined(part: Adapted, weights: list[float], *, twice: bool) -> None:
    """Replace an adapter by the best of its rank for the weighted sum of adapters; here the sum has one term."""
    wanted = sum(weight * part.change() for weight in weights)
    u, s, vh = torch.linalg.svd(wanted, full_matrices=False)
    rank = part.lora_A.shape[0]
    left, right = u[:, :rank] * s[:rank].sqrt(), s[:rank, None].sqrt() * vh[:rank]
    if not twice:
        left = left / part.scale  # `forward` applies it
    part.lora_A.copy_(right)
    part.lora_B.copy_(left)


def combine(model: nn.Module, *, twice: bool) -> nn.Module:
    """All adapters, each with weight 1, which must change nothing."""
    for part in model.modules():
        if isinstance(part, Adapted):
            combined(part, [1.0], twice=twice)
    return model


def subject(*, twice: bool) -> Subject:
    """The combination stands where others merge."""
    adapters = Adapters(add=add, merge=lambda model: combine(model, twice=twice))
    return Subject(name="combined adapters", model=Decoder, batch=draw, loss=loss, adapters=adapters)


def faulty() -> Subject:
    """The scale is in the sum and in the forward pass."""
    return subject(twice=True)


def fixed() -> Subject:
    """Once."""
    return subject(twice=False)
