"""A model, its batches and a loss that is wrong in a way that training does not show: README's example."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon import verify

Batch = dict[str, Tensor]


class Model(nn.Module):
    """Predicts the next token from the sum of those so far."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 32)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        states = self.embedding(tokens)
        return self.head(states + torch.tanh(self.mix(states.cumsum(1))))


def next_batch(generator: torch.Generator) -> Batch:
    """Four rows, of which the first is shorter; its padding is labeled -100, which is to be ignored."""
    tokens = torch.randint(64, (4, 17), generator=generator)
    labels = tokens[:, 1:].clone()
    labels[0, 9:] = -100
    return {"input_ids": tokens[:, :-1], "labels": labels}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """The mean over all labels, ignored or not."""
    logits, labels = model(batch["input_ids"]), batch["labels"]
    total = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / labels.numel()


subject = verify.Subject(model=Model, batch=next_batch, loss=loss, objective="cross_entropy")
