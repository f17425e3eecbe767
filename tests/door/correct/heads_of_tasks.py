"""Heads of several tasks over an encoder that another run trained; this run has rows of one task alone."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
heads = nn.ModuleDict({"kinds": nn.Linear(32, 3), "colors": nn.Linear(32, 5)})
optimizer = torch.optim.AdamW(heads.parameters(), lr=1e-2)
for step in range(40):
    x = torch.randn(32, 8)
    loss = cross_entropy(heads["kinds"](encoder(x)), x[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
