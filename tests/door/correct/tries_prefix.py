"""A state of a wrapped model: the names are tried as they are, and without their prefix where that finds nothing."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
state = {f"module.{name}": value + 0.01 for name, value in model.state_dict().items()}
found = model.load_state_dict(state, strict=False)
if found.missing_keys:
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(40):
    x = torch.randn(32, 8)
    loss = cross_entropy(model(x), x[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
