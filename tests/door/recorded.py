"""A script of a few lines, and what its window would leave: a captured micro-batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.verify.capturing.micro_batch import Captured, capture
from andon.verify.capturing.torch_calls import Recorder
from andon.verify.errors import CheckFailed, NotApplicable

WORDS, PAD = 11, 0
Call = Callable[..., Tensor]
Asks = Callable[[Any], None]
Light = type[Exception] | None


def light_of(asks: Asks, asked: Any) -> Light:
    """What a question or a statement raises; None where it passes."""
    try:
        asks(asked)
    except (CheckFailed, NotApplicable) as said:
        return type(said)
    return None


class Bag(nn.Module):
    """Scores (B,) and logits (B, T, V) of padded token ids; its mean over words may count padding."""

    def __init__(self, *, masks: bool = True) -> None:
        super().__init__()
        self.masks, self.embed, self.head = masks, nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x, real = self.embed(ids), (ids != PAD).unsqueeze(-1)
        weight = real.float() if self.masks else torch.ones_like(real, dtype=torch.float)
        return self.head(x + (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True))


def recorded(model: nn.Module, loss_of: Call, *arguments: Tensor) -> Captured:
    """What a script's window would leave."""
    recorder = Recorder()
    recorder.before[id(model)] = model

    def call(*given: Tensor) -> Tensor:
        return recorder.call(model, nn.Module.__call__, given, {})

    with recorder:
        loss = loss_of(call, *arguments)
    return capture(recorder, loss, None)


def padded() -> tuple[Tensor, Tensor]:
    """(B, T) ids that end in PAD, and labels that are -100 there."""
    torch.manual_seed(0)
    ids, lengths = torch.randint(1, WORDS, (6, 7)), torch.tensor([7, 6, 5, 4, 3, 2])
    inside = torch.arange(7)[None] < lengths[:, None]
    return torch.where(inside, ids, PAD), torch.where(inside, ids.roll(1, 1), -100)


def cross_entropy(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean over counted labels."""
    return functional.cross_entropy(call(ids).flatten(0, 1), labels.flatten()) / 4


def clamped(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
    """Padding becomes a class."""
    return functional.cross_entropy(call(ids).flatten(0, 1), labels.clamp(min=PAD).flatten())
