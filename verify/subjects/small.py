"""A small language model in plain torch, for libraries that bring the training and no model."""

from typing import Any

import torch
from torch import Tensor, nn

from ..subject import Subject

VOCABULARY, WIDTH = 67, 96
ROWS, LENGTH = 4, 16


def subject(**parts: Any) -> Subject:
    """The subject; `parts` are further parts of `Subject`."""
    return Subject(**{"model": model, "batch": batch, "loss": loss} | parts)


def model() -> nn.Module:
    """Words from the word before."""
    return nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, VOCABULARY)
    )


def batch(generator: torch.Generator, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Tokens, and the tokens one ahead."""
    tokens_BT = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=generator)
    return tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean nats a token."""
    tokens_BT, targets_BT = batch
    return nn.functional.cross_entropy(model(tokens_BT).flatten(0, 1), targets_BT.flatten())
