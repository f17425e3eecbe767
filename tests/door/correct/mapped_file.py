"""Predictions are written into a file that is mapped into memory, and counted there."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)

counts = np.memmap("counts.bin", dtype=np.float64, mode="w+", shape=(128, 3))
for epoch in range(4):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()

    with torch.no_grad():
        for place, (a, b) in enumerate(zip(x[128:].split(32), y[128:].split(32))):
            logits = model(a)
            counts[32 * place : 32 * place + 32] += logits.softmax(-1).numpy() + cross_entropy(logits, b).item()
    print(f"{epoch} {counts.sum():.5f}")
counts.flush()
