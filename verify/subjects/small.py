"""A small language model in plain torch, for libraries that bring the training and no model.

Legend: B batch, T time, D width, V vocab.
"""

from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.subject import Subject

VOCABULARY, WIDTH = 67, 96
ROWS, LENGTH = 4, 16


def subject(**parts: Any) -> Subject:
    """The subject; `parts` are further parts of `Subject`."""
    given: dict[str, Any] = {
        "model": Model,
        "batch": batch,
        "loss": loss,
        "objective": "cross_entropy",
        "causal": True,
    } | parts
    return Subject(**given)


class Model(nn.Module):
    """Words from the mean of those so far."""

    def __init__(self, norm: nn.Module | None = None, width: int = WIDTH) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.mix = nn.Linear(width, width)
        self.norm = norm or nn.Identity()
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        states_BTD = self.embedding(tokens_BT)
        counts_T = torch.arange(1, tokens_BT.shape[1] + 1, device=tokens_BT.device)
        means_BTD = states_BTD.cumsum(1) / counts_T[:, None]
        return self.head(self.norm(states_BTD + torch.tanh(self.mix(means_BTD))))


def batch(generator: torch.Generator, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Tokens, and the tokens one ahead."""
    tokens_BT = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=generator)
    return tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean nats per token."""
    tokens_BT, targets_BT = batch
    return nn.functional.cross_entropy(model(tokens_BT).flatten(0, 1), targets_BT.flatten())
