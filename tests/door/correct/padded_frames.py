"""ctc_loss of ragged sequences whose padding, more than half of all frames, is set to zero."""

import torch
from torch import nn
from torch.nn.functional import ctc_loss

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(40):
    lengths = torch.tensor([40, 10, 9, 8])
    x = torch.randn(40, 4, 8)
    inside = torch.arange(40)[:, None] < lengths
    log_probs = model(x).log_softmax(-1) * inside[..., None]
    targets = torch.randint(1, 6, (4, 3))
    loss = ctc_loss(log_probs, targets, lengths, torch.full((4,), 3))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
