"""clip_grad_norm_ with no bound, after the step, only to log the norm of the gradients."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(40):
    x = torch.randn(32, 8)
    loss = cross_entropy(model(x), x[:, :3].argmax(1))
    loss.backward()
    optimizer.step()
    norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    optimizer.zero_grad()
    print(f"{step} {loss.item():.6f} {norm:.4f}")
