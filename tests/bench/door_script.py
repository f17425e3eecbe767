"""A training script of 10.6 million parameters, as users write them: what `tests.bench.door` measures the door on."""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

WORDS, WIDTH, HEADS, LAYERS, LENGTH, ROWS = 65, 384, 6, 6, 64, 4


class Block(nn.Module):
    """Attention and a feed-forward network, each beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, -1))
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.feed(self.norm_2(x))


class GPT(nn.Module):
    """A small language model."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to logits (B, T, V)."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batches(count: int) -> list[Tensor]:
    """Rows of made-up text (B, T + 1): each word follows from the one before, but for a few."""
    steps = torch.randint(1, 4, (count, ROWS, LENGTH + 1))
    return list((torch.randint(WORDS, (count, ROWS, 1)) + steps.cumsum(-1)) % WORDS)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> float:
    """One step on a batch."""
    loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def main(steps: int) -> None:
    """Train."""
    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number, rows in enumerate(batches(steps)):
        loss = step(model, optimizer, rows)
        schedule.step()
        if number % 10 == 0:
            print(f"step {number}: loss {loss:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
