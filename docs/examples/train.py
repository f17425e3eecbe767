"""Trains a small model to add, and is wrong in a way that its loss does not show: README's example."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CHARACTERS = "0123456789+= "
generator = torch.Generator().manual_seed(0)


class Adder(nn.Module):
    """Predicts the next character of "27+58=85 ": a gated recurrence and a head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), width)
        self.recurrence = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, len(CHARACTERS))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of each next character, (batch, length, characters)."""
        return self.head(self.recurrence(self.embedding(ids))[0])


def next_batch(rows: int = 32) -> Tensor:
    """Sums in characters, (rows, 9)."""
    pairs = torch.randint(10, 50, (rows, 2), generator=generator).tolist()
    return torch.tensor([[CHARACTERS.index(each) for each in f"{a}+{b}={a + b} "] for a, b in pairs])


torch.manual_seed(0)
model = Adder()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(61):
    ids = next_batch()
    loss = cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.zero_grad()
    if step % 30 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
