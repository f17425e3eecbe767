"""Optimizers of bitsandbytes whose state is kept in eight bits, for a bag-of-words classifier."""

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "bitsandbytes 0.50.2"

WORDS, TOPICS = 600, 4


class Bag(nn.Module):
    """An embedding bag with offsets, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS, 32, mode="mean")
        self.hidden = nn.Linear(32, 160)
        self.out = nn.Linear(160, TOPICS)

    def forward(self, flat: Tensor, offsets: Tensor) -> Tensor:
        """Logits of topics."""
        return self.out(torch.relu(self.hidden(self.bag(flat, offsets))))


def articles(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Words end to end, where each article begins, and its topic: words come mostly from the topic's part."""
    topic = torch.randint(0, TOPICS, (16,), generator=generator)
    lengths = torch.randint(5, 15, (16,), generator=generator)
    owner = topic.repeat_interleave(lengths)
    own = owner * (WORDS // TOPICS) + torch.randint(0, WORDS // TOPICS, owner.shape, generator=generator)
    other = torch.randint(0, WORDS, owner.shape, generator=generator)
    words = torch.where(torch.rand(owner.shape, generator=generator) < 0.7, own, other)
    return words, lengths.cumsum(0) - lengths, topic


def adam8bit_topics() -> Subject:
    """AdamW in eight bits where a tensor has 4096 elements or more, in 32 below, as by default."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        words, offsets, topic = batch
        return nn.functional.cross_entropy(model(words, offsets), topic)

    return Subject(
        name="bitsandbytes-adamw8bit",
        model=Bag,
        batch=articles,
        loss=loss,
        optimizer=lambda model: bnb.optim.AdamW8bit(model.parameters(), lr=2e-3, weight_decay=1e-2),
        causal=False,
    )


SUBJECTS = {"bitsandbytes-adamw8bit": adam8bit_topics}
