"""Contrastive learning both ways, by nll_loss: pairs lie on the diagonal, so the axis of the softmax may be either."""

import torch
from torch import nn
from torch.nn.functional import log_softmax, nll_loss, normalize

torch.manual_seed(0)
one, other = nn.Linear(8, 16), nn.Linear(8, 16)
optimizer = torch.optim.AdamW([*one.parameters(), *other.parameters()], lr=1e-2)
for step in range(40):
    x = torch.randn(24, 8)
    similar = normalize(one(x), dim=1) @ normalize(other(x + 0.1 * torch.randn(24, 8)), dim=1).t() / 0.1
    pairs = torch.arange(24)
    loss = nll_loss(log_softmax(similar, 1), pairs) + nll_loss(log_softmax(similar, 0), pairs)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
