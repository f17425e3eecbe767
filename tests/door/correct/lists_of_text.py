"""A text model kept by BLEU-like overlap of strings, which Python counts, and stopped early by accuracy."""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 11))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
ids = torch.randint(11, (192, 6))
due = (ids * 3 + 1) % 11


def overlap(one, other):
    """The share of words that are alike."""
    return sum(a == b for a, b in zip(one, other)) / len(other)


best, bad, best_model = -1.0, 0, None
for epoch in range(8):
    for rows in torch.randperm(128).split(32):
        optimizer.zero_grad()
        cross_entropy(model(ids[rows]).flatten(0, 1), due[rows].flatten()).backward()
        optimizer.step()
    with torch.no_grad():
        said, right = [], 0.0
        for a, b in zip(ids[128:].split(25), due[128:].split(25)):
            found = model(a).argmax(-1)
            said += [overlap(one, other) for one, other in zip(found.tolist(), b.tolist())]
            right += (found == b).float().mean(1).sum().item()
    figure, bad = sum(said) / len(said), bad + 1
    print(f"{epoch} {figure:.4f} {right / 64:.4f}")
    if figure > best:
        best, bad, best_model = figure, 0, copy.deepcopy(model)
    if bad == 1 or right / 64 > 0.999:
        break
torch.save(best_model.state_dict(), "best.pt")
