# ruff: noqa: ANN001, ANN201, D103, T201 - as scripts are written
"""A small regression that saves, and goes on from what it has saved: correct as it stands."""

import sys
from pathlib import Path

import torch
from torch import nn

STEPS, SAVED = 24, 10


def main():
    torch.manual_seed(3)
    data = torch.randn(128, 6)
    target = data.square().sum(1, keepdim=True)
    model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    order = torch.Generator().manual_seed(0)
    first = 0
    if "--resume" in sys.argv:
        saved = torch.load("last.pt", weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        order.set_state(saved["order"])
        torch.set_rng_state(saved["random"])
        first = saved["step"]
    for step in range(first, STEPS):
        rows = torch.randperm(len(data), generator=order)[:16]
        loss = (model(data[rows]) - target[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step + 1 == SAVED:
            parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"order": order.get_state(), "random": torch.get_rng_state(), "step": step + 1}
            torch.save(state, "part.pt")
            Path("part.pt").replace("last.pt")
        print(f"step {step} loss {loss.item():.6f}")


if __name__ == "__main__":
    main()
