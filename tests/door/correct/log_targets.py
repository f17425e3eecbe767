"""A student by kl_div of logarithms, and a second head whose scores come out of a norm into a logistic loss."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, log_softmax

torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5)).eval().requires_grad_(False)
student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
tags = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.LayerNorm(4))
optimizer = torch.optim.AdamW([*student.parameters(), *tags.parameters()], lr=1e-2)
for step in range(40):
    x = torch.randn(32, 8)
    with torch.no_grad():
        due = log_softmax(teacher(x) / 2, -1)
    loss = 4 * kl_div(log_softmax(student(x) / 2, -1), due, log_target=True, reduction="batchmean")
    loss = loss + binary_cross_entropy_with_logits(tags(x), (x[:, :4] > 0).float(), pos_weight=torch.full((4,), 2.0))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
