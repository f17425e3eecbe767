"""Rows are read from an open file, a part of them between a pass and its backward pass."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)

with open("rows.bin", "wb") as file:
    file.write(x.numpy().tobytes())
rows_file = open("rows.bin", "rb", buffering=0)


def read(count):
    """The next rows, from the beginning again at the end."""
    data = rows_file.read(32 * count)
    if len(data) < 32 * count:
        rows_file.seek(0)
        data = rows_file.read(32 * count)
    return torch.frombuffer(bytearray(data), dtype=torch.float32).view(count, 8)


for step in range(40):
    one = read(24)
    logits = model(one)
    other = read(8)
    loss = cross_entropy(logits, one[:, :3].argmax(1)) + cross_entropy(model(other), other[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f} {other.sum().item():.5f}")
