"""Evaluation in two parts, the second of which reads its rows in two other processes."""

from torch.utils.data import DataLoader, TensorDataset

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)

held_out = TensorDataset(x[128:], y[128:])
for epoch in range(3):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    model.eval()
    with torch.no_grad():
        first = sum(cross_entropy(model(a), b).item() for a, b in DataLoader(held_out, 32)) / 4
        right = sum((model(a).argmax(1) == b).sum().item() for a, b in DataLoader(held_out, 32, num_workers=2))
    model.train()
    print(f"{epoch} {first:.5f} {right / 128:.4f}")
