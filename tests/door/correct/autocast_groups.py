"""Attention with fewer keys than queries under autocast, its norms beside it in float32; labels made of the rows."""

import torch
from torch import nn
from torch.nn import functional

WORDS, WIDTH, HEADS, GROUPS, TIME = 19, 32, 4, 2, 24


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        size = WIDTH // HEADS
        self.queries = nn.Linear(WIDTH, WIDTH, bias=False)
        self.keys = nn.Linear(WIDTH, GROUPS * size, bias=False)
        self.values = nn.Linear(WIDTH, GROUPS * size, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        rows, time, _ = x.shape
        q = self.queries(x).view(rows, time, HEADS, -1).transpose(1, 2)
        k, v = (
            each(x).view(rows, time, GROUPS, -1).transpose(1, 2).repeat_interleave(HEADS // GROUPS, 1)
            for each in (self.keys, self.values)
        )
        scores = q @ k.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5
        hidden = torch.ones(time, time, dtype=torch.bool).triu(1)
        read = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        return self.out(read.transpose(1, 2).reshape(rows, time, WIDTH))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.between, self.read = Scale(WIDTH), Scale(WIDTH), Attention()
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.read(self.before(x))
        return x + self.narrow(functional.gelu(self.wide(self.between(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(TIME, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.last, self.head = Scale(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(self, ids):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


torch.manual_seed(0)
starts = torch.randint(0, WORDS, (96, 1))
rows = (starts + torch.arange(TIME + 1) * torch.randint(1, 4, (96, 1))) % WORDS
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(30):
    chosen = rows[torch.randint(0, len(rows), (8,))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(chosen[:, :-1])
    loss = functional.cross_entropy(logits.float().flatten(0, 1), chosen[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(f"{step} {loss.item():.4f}")
