"""An average beside a model with batch norms: buffers are copied; another copy, of the beginning, is evaluated too."""

from copy import deepcopy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
average, first = deepcopy(model).requires_grad_(False), deepcopy(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8) * 2 + 1
y = x[:, :3].argmax(1)


@torch.no_grad()
def accuracy(net):
    """Of the second half."""
    net.eval()
    right = sum((net(a).argmax(1) == b).sum().item() for a, b in zip(x[128:].split(32), y[128:].split(32)))
    return right / 128


for epoch in range(6):
    model.train()
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        with torch.no_grad():
            for p, other in zip(model.parameters(), average.parameters()):
                other.lerp_(p, 0.1)
    for own, other in zip(model.buffers(), average.buffers()):
        other.copy_(own)
    print(f"{epoch} {accuracy(first):.2f} {accuracy(model):.2f} {accuracy(average):.2f}")
