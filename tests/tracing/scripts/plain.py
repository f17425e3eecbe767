"""A loop as many have it, which times its own phases by hand."""

import json
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SECONDS = {}


class Rows(Dataset):
    def __len__(self):
        return 192

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(256, 256, generator=generator)
        return x[0], (x @ x)[1].clamp(-1, 1)


def by_hand(name, call, *args):
    begun = time.process_time()
    result = call(*args)
    SECONDS[name] = SECONDS.get(name, 0.0) + time.process_time() - begun
    return result


def timed(loader):
    batches = iter(loader)
    while (batch := by_hand("data", next, batches, None)) is not None:
        yield batch


torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 256))
optimizer = torch.optim.AdamW(model.parameters())
loader = DataLoader(Rows(), 16, shuffle=True)
losses = []
for epoch in range(2):
    for x, y in timed(loader):
        prediction = by_hand("forward", model, x)
        loss = (prediction - y).square().mean()
        by_hand("backward and clip", loss.backward)
        by_hand("backward and clip", nn.utils.clip_grad_norm_, model.parameters(), 1.0)
        by_hand("optimizer", optimizer.step)
        optimizer.zero_grad()
        losses.append(loss.item())
    with torch.no_grad():
        losses += [(model(x) - y).square().mean().item() for x, y in DataLoader(Rows(), 64)]
json.dump(
    {"losses": losses, "weights": [p.double().sum().item() for p in model.parameters()], "seconds": SECONDS}, sys.stdout
)
