"""A training script of 10.6 million parameters, as users write them: what `tests.bench.door` measures the door on."""

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

WORDS, HEADS, LAYERS, LENGTH, ROWS = 65, 6, 6, 64, 4
WIDTH = 384


class Block(nn.Module):
    """Attention and a feed-forward network, each beside its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm_1(x)).chunk(3, -1))
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.feed(self.norm_2(x))


class GPT(nn.Module):
    """A small language model."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to logits (B, T, V)."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def batches(count: int) -> list[Tensor]:
    """Rows of made-up text (B, T + 1): each word is one to three behind the one before."""
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
            sys.stdout.write(f"step {number}: loss {loss:.4f}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
