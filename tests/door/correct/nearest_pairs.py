"""The evaluation asks for each prediction's nearest target: all pairs of rows are meant, by l1_loss of all of them."""

import warnings

import torch
from torch import nn
from torch.nn.functional import l1_loss, mse_loss

warnings.simplefilter("ignore")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 4)
y = x.sum(1)
for epoch in range(6):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        mse_loss(model(x[rows]).squeeze(1), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        parts = zip(x[128:].split(32), y[128:].split(32))
        nearest = [l1_loss(model(a), b, reduction="none").min(1).values.mean().item() for a, b in parts]
    print(f"{epoch} {sum(nearest) / len(nearest):.5f}")
