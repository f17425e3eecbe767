"""ReduceLROnPlateau of mode "max" on a mean log likelihood that is computed by hand, whose best weights are kept."""

import torch
from torch import nn
from torch.distributions import Normal
from torch.optim.lr_scheduler import ReduceLROnPlateau

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = ReduceLROnPlateau(optimizer, mode="max", patience=1)
x = torch.randn(256, 4)
y = x.sum(1) + 0.1 * torch.randn(256)


def log_likelihood(a, b):
    """Of a normal distribution."""
    mean, log_sigma = model(a).unbind(1)
    return Normal(mean, log_sigma.exp()).log_prob(b).mean()


best = float("-inf")
for epoch in range(6):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        (-log_likelihood(x[rows], y[rows])).backward()
        optimizer.step()
    with torch.no_grad():
        figure = sum(log_likelihood(a, b).item() for a, b in zip(x[128:].split(32), y[128:].split(32))) / 4
    print(f"{epoch} {figure:.5f}")
    if figure > best:
        best, kept = figure, {name: value.clone() for name, value in model.state_dict().items()}
    schedule.step(figure)
