"""A database, a log that is open from the beginning, and lines that are written between a pass and its backward pass."""

import logging
import sqlite3

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x = torch.randn(256, 8)
y = x[:, :3].argmax(1)

logging.basicConfig(filename="run.log", level=logging.INFO, format="%(message)s")
table = open("losses.csv", "w")
base = sqlite3.connect("runs.db")
base.execute("create table losses (epoch integer, loss real)")
for epoch in range(4):
    for rows in torch.randperm(128).split(16):
        optimizer.zero_grad()
        loss = cross_entropy(model(x[rows]), y[rows])
        table.write(f"{epoch},{loss.item():.5f}\n")
        table.flush()
        logging.info("loss %.5f", loss.item())
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses = [cross_entropy(model(a), b).item() for a, b in zip(x[128:].split(32), y[128:].split(32))]
        base.execute("insert into losses values (?, ?)", (epoch, round(sum(losses) / 4, 5)))
        base.commit()
    logging.info("held out %.5f", sum(losses) / 4)
    print(f"{epoch} {sum(losses) / 4:.5f}", base.execute("select count(*) from losses").fetchone())
base.close()
table.close()
