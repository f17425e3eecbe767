"""Two micro-batches a step, two optimizers one after the other, a model that returns its loss; phases timed by hand."""

import json
import sys
import time

import torch
from torch import nn

SECONDS = {}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(256, 4096), nn.Linear(4096, 256)

    def forward(self, x):
        y = self.second(self.first(x).relu())
        return {"loss": (y - x.cumsum(1)).square().mean(), "prediction": y}


def by_hand(name, call, *args):
    begun = time.process_time()
    result = call(*args)
    SECONDS[name] = SECONDS.get(name, 0.0) + time.process_time() - begun
    return result


def rows(generator):
    x = torch.randn(256, 256, generator=generator).matrix_power(16)[:64]
    return x / x.norm()


def batches(generator):
    for _ in range(40):
        yield by_hand("data", rows, generator)


torch.manual_seed(0)
torch.set_num_threads(1)
model = Model()
body = torch.optim.AdamW(model.first.parameters())
head = torch.optim.Adam(model.second.parameters())
losses = []
for number, x in enumerate(batches(torch.Generator().manual_seed(1))):
    loss = by_hand("forward", model, x)["loss"] / 2
    by_hand("backward and clip", loss.backward)
    losses.append(loss.item())
    if number % 2:
        by_hand("optimizer", body.step)
        by_hand("optimizer", head.step)
        model.zero_grad()
json.dump(
    {"losses": losses, "weights": [p.double().sum().item() for p in model.parameters()], "seconds": SECONDS}, sys.stdout
)
