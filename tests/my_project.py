"""What README's example imports: a user's model, batches, loss and loop. Here the model is our own LLaMA."""

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from andon.core.config import ModelConfig
from andon.core.data.batch import Batch
from andon.core.model.llama import Llama
from andon.core.training.loss import loss

__all__ = ["MyModel", "batch", "loss", "model", "next_batch", "optimizer", "train"]

SHAPE = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


class MyModel(Llama):
    """Built with its weights."""

    def __init__(self) -> None:
        super().__init__(SHAPE)
        self.init_weights(torch.default_generator)


def next_batch(generator: torch.Generator) -> Batch:
    """Three rows of tokens, and labels one ahead."""
    ids = torch.randint(0, SHAPE.vocab_size, (3, 17), generator=generator)
    return Batch(ids[:, :-1], ids[:, 1:], None)


model = MyModel()
batch = next_batch(torch.Generator())
optimizer = AdamW(model.parameters(), lr=1e-3)


def train(model: Llama, optimizer: Optimizer) -> Tensor:
    """A few steps."""
    generator, value = torch.Generator(), torch.zeros(())
    for _ in range(12):
        value = loss(model, next_batch(generator))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return value.detach()
