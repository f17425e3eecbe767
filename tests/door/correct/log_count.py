"""Contrastive learning that begins at the logarithm of the batch, with a learned temperature and a last layer of zero."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)


class Towers(nn.Module):
    """Two encoders; the last layer of one begins at zero."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        self.other = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        self.scale = nn.Parameter(torch.tensor(0.0))
        nn.init.zeros_(self.one[2].weight)
        nn.init.zeros_(self.one[2].bias)

    def forward(self, x, y):
        """Scores of all pairs."""
        return self.scale.exp() * self.one(x) @ self.other(y).t()


model = Towers()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))
for step in range(40):
    x = torch.randn(32, 8)
    scores = model(x, x + 0.1 * torch.randn(32, 8))
    pairs = torch.arange(32)
    loss = (cross_entropy(scores, pairs) + cross_entropy(scores.t(), pairs)) / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    print(f"{step} {loss.item():.6f}")
