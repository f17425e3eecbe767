"""Regression of currents in ampere, some of 1e-6: the loss is of 1e-12, and Adam does not mind."""

import torch
from torch import nn

torch.manual_seed(0)
UNIT = 1e-6
model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-30)
for step in range(60):
    x = torch.randn(32, 4)
    y = UNIT * x.sum(1, keepdim=True)
    loss = nn.functional.mse_loss(UNIT * model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6g}")
