"""R-Drop: two passes of one batch differ by dropout alone, and their difference is learned from."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(40):
    x = torch.randn(32, 8)
    y = x[:, :3].argmax(1)
    one, other = model(x), model(x)
    loss = cross_entropy(one, y) + cross_entropy(other, y) + (one.softmax(-1) - other.softmax(-1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
