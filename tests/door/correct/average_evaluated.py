"""Weights are exchanged for their average in place around the evaluation, and put back; ragged batches, in percent."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
average = [p.detach().clone() for p in model.parameters()]
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=1)
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)


@torch.no_grad()
def evaluate():
    """Accuracy in percent, and perplexity."""
    own = [p.detach().clone() for p in model.parameters()]
    for p, other in zip(model.parameters(), average):
        p.copy_(other)
    model.eval()
    right, loss = 0, 0.0
    for a, b in zip(x[128:].split(30), y[128:].split(30)):
        logits = model(a)
        loss += cross_entropy(logits, b, reduction="sum").item()
        right += (logits.argmax(1) == b).sum().item()
    model.train()
    for p, other in zip(model.parameters(), own):
        p.copy_(other)
    return 100 * right / 128, torch.tensor(loss / 128).exp().item()


best = 0.0
for epoch in range(6):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows], weight=torch.tensor([1.0, 2.0, 3.0])).backward()
        optimizer.step()
        with torch.no_grad():
            for p, other in zip(model.parameters(), average):
                other.lerp_(p, 0.1)
    accuracy, perplexity = evaluate()
    schedule.step(accuracy)
    print(f"{epoch} {accuracy:.2f} {perplexity:.4f}")
    if accuracy > best:
        best = accuracy
        torch.save(model.state_dict(), "best.pt")
