"""Triplets of a margin that are all satisfied in most steps: the loss is zero, and has no gradient."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(8, 4)
with torch.no_grad():
    model.weight.copy_(torch.eye(4, 8) * 3)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
centers = 5 * torch.eye(4, 8)
for step in range(40):
    kinds = torch.randint(4, (16,))
    one, same = (centers[kinds] + 0.1 * torch.randn(16, 8) for _ in range(2))
    other = centers[(kinds + 1) % 4] + 0.1 * torch.randn(16, 8)
    loss = nn.functional.triplet_margin_loss(model(one), model(same), model(other), margin=0.5)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
