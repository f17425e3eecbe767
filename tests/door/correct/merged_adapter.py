"""An adapter is evaluated, merged into its layer, evaluated again, and taken off."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
RANK, SCALE = 2, 4.0


class Adapted(nn.Module):
    """A frozen layer and what is added to it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(16, 16).requires_grad_(False)
        self.down, self.up = nn.Linear(16, RANK, bias=False), nn.Linear(RANK, 16, bias=False)
        nn.init.zeros_(self.up.weight)
        self.merged = False

    def forward(self, x):
        y = self.base(x)
        return y if self.merged else y + SCALE * self.up(self.down(x))

    @torch.no_grad()
    def merge(self):
        self.own, self.merged = self.base.weight.clone(), True
        self.base.weight += SCALE * self.up.weight @ self.down.weight

    @torch.no_grad()
    def take_off(self):
        self.base.weight.copy_(self.own)
        self.merged = False


model = nn.Sequential(Adapted(), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
x = torch.randn(256, 16)
y = x[:, :3].argmax(1)


@torch.no_grad()
def accuracy():
    model.eval()
    right = sum((model(a).argmax(1) == b).sum().item() for a, b in zip(x[128:].split(32), y[128:].split(32)))
    model.train()
    return right / 128


for epoch in range(5):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    before = accuracy()
    model[0].merge()
    print(f"{epoch} {before:.3f} {accuracy():.3f}")
    model[0].take_off()
