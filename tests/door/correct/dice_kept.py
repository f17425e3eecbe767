"""Segmentation whose best weights are kept by the Dice score alone, computed by hand: higher is better."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(64, 1, 8, 8)
y = (nn.functional.avg_pool2d(x, 3, 1, 1) > 0.1).float()


def dice(logits, target):
    """The share that two areas have in common."""
    given = logits.sigmoid()
    return 2 * (given * target).sum() / (given.sum() + target.sum())


@torch.no_grad()
def evaluate():
    """The mean Dice score of the batches."""
    model.eval()
    scores = [dice(model(a), b).item() for a, b in zip(x[32:].split(8), y[32:].split(8))]
    model.train()
    return sum(scores) / len(scores)


best, kept = 0.0, None
for epoch in range(5):
    for rows in torch.randperm(32).split(8):
        optimizer.zero_grad()
        (1 - dice(model(x[rows]), y[rows])).backward()
        optimizer.step()
    score = evaluate()
    print(f"{epoch} {score:.5f}")
    if score > best:
        best, kept = score, {name: value.clone() for name, value in model.state_dict().items()}
