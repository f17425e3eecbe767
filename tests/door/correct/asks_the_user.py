"""The user is asked after each evaluation, which goes through its rows in two batches."""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)

for epoch in range(3):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    with torch.no_grad():
        losses = [cross_entropy(model(a), b).item() for a, b in zip(x[128:].split(64), y[128:].split(64))]
    print(f"{epoch} {sum(losses) / 2:.5f}", sys.stdin.readline().strip(), input())
