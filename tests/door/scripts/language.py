# ruff: noqa: ANN001, ANN201, ANN204, D101, D102, D103, T201 - as scripts are written
"""A tiny causal language model on made-up text, trained by a plain loop: correct as it stands."""

import sys

import torch
from torch import nn
from torch.nn import functional

WORDS, WIDTH, TIME, ROWS, STEPS = 23, 16, 12, 8, 24


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mix, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        return x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(TIME, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(WIDTH, WORDS)

    def forward(self, ids):
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))


def loss_of(model, rows):
    logits = model(rows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def evaluate(model, data):
    model.eval()
    with torch.no_grad():
        loss = loss_of(model, data)
    model.train()
    return loss.item()


def main():
    torch.manual_seed(3)
    data = torch.randint(0, WORDS, (96 + 64, TIME + 1))
    train, held_out = data[:96], data[96:]
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    order = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        rows = train[torch.randperm(len(train), generator=order)[:ROWS]]
        loss = loss_of(model, rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 8 == 7:
            print(f"step {step} loss {loss.item():.4f} held out {evaluate(model, held_out):.4f}")
    print("weights", float(sum(p.double().sum().item() for p in model.parameters())).hex())


if __name__ == "__main__":
    main()
    sys.exit(0)
