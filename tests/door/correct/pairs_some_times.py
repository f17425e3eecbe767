"""A loss of ordered pairs beside another one: in some batches there is no pair at all."""

import torch
from torch import nn
from torch.nn.functional import softplus

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(40):
    x = torch.randn(8, 8)
    y = (x[:, 0] > (0 if step > 12 else 9)).float()
    score = model(x).squeeze(1)
    high, low = score[y == 1], score[y == 0]
    margin = high[:, None] - low[None]
    loss = nn.functional.mse_loss(score, x.sum(1)) + softplus(-margin).sum() / 8
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
