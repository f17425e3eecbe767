"""A mixture of experts whose tokens go to one of eight, some idle for long, evaluated in bits over ragged batches."""

import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)


class Experts(nn.Module):
    """One expert for each token."""

    def __init__(self, width, count):
        super().__init__()
        self.router = nn.Linear(width, count)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(count))

    def forward(self, x):
        """(B, D) to (B, D)."""
        weight, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for place, expert in enumerate(self.experts):
            rows = chosen == place
            if rows.any():
                out[rows] = expert(x[rows]) * weight[rows, None]
        return x + out


model = nn.Sequential(nn.Linear(8, 16), Experts(16, 8), nn.Linear(16, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)
best = -math.inf
for epoch in range(5):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        total = 0.0
        for a, b in zip(x[128:].split(50), y[128:].split(50)):
            total += cross_entropy(model(a), b).item() * len(b)
    model.train()
    score = -total / 128 / math.log(2)
    print(f"{epoch} {-score:.5f} bits")
    if score > best:
        best = score
        torch.save(model, "best.pt")
    torch.save(model.state_dict(), f"epoch-{epoch}.pt")
