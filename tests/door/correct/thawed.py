"""A frozen body that is thawed halfway, a rate that warms up from zero, and a head that is replaced in the file."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
STEPS = 60
old = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 7))
torch.save({"model": {f"0.{name}": value for name, value in old[0].state_dict().items()} | {"9.bias": torch.zeros(7)}}, "old.pt")
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
model.load_state_dict(torch.load("old.pt")["model"], strict=False)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 10, (STEPS - step) / (STEPS - 10)))
model[0].requires_grad_(False)
for step in range(STEPS):
    if step == STEPS // 2:
        model[0].requires_grad_(True)
    x = torch.randn(32, 8)
    loss = cross_entropy(model(x), x[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    print(f"{step} {loss.item():.6f}")
