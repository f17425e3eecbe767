"""A library of three architectures: one that is right, one that reads ahead, one that cannot be built."""

import torch
from torch import Tensor, nn

WORDS, WIDTH = 31, 16


class Right(nn.Module):
    """Words from the mean of those before."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        states = self.embedding(tokens)
        return self.head(torch.tanh(self.mixed(states)))

    def mixed(self, states: Tensor) -> Tensor:
        """The mean up to each position."""
        counts = torch.arange(1, states.shape[1] + 1)
        return states.cumsum(1) / counts[None, :, None]


class Ahead(Right):
    """The same, but the mean is of the whole row."""

    def mixed(self, states: Tensor) -> Tensor:
        """The mean of all positions."""
        return states.mean(1, keepdim=True).expand_as(states)


class Broken(Right):
    """The same, for a head that no configuration gives."""

    def __init__(self) -> None:
        super().__init__()
        raise ValueError("heads=7 does not divide width=16")


MODELS = {"right": Right, "ahead": Ahead, "broken": Broken}
