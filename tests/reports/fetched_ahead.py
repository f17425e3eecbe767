"""A learning rate that follows the progress of a run."""

import json
from pathlib import Path

import torch
from torch import nn

from andon.verify import Subject
from tests.reports.small import Batch, Decoder, draw, loss

BUG = "progress counts fetched micro-batches instead of updates: the rate falls through 0 long before the run ends"
PEAK, UPDATES, PARTS = 2e-3, 10, 3


def falling(progress: float) -> float:
    """Level for the first 40%, then straight down to 0 at the end."""
    return 1.0 if progress < 0.4 else (1 - progress) / 0.6


class Run:
    """A run that keeps one micro-batch ahead and accumulates three."""

    def __init__(self, *, by_fetches: bool) -> None:
        torch.manual_seed(11)
        self.model: nn.Module = Decoder()
        self.by_fetches = by_fetches
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.model.parameters(), lr=PEAK, weight_decay=0.0)
        self.fetches = self.updates = 0
        self.waiting = self.fetch()

    def fetch(self) -> Batch:
        """The next micro-batch of an endless stream."""
        batch = draw(torch.Generator().manual_seed(self.fetches))
        self.fetches += 1
        return batch

    def rate(self) -> float:
        """Of this update."""
        if self.by_fetches:
            return PEAK * falling(self.fetches / UPDATES)
        return PEAK * max(0.0, falling(self.updates / UPDATES))

    def step(self) -> dict[str, float]:
        """Three micro-batches, one update."""
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(PARTS):
            part = loss(self.model, self.waiting) / PARTS
            part.backward()
            total += part.item()
            self.waiting = self.fetch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        self.updates += 1
        return {"loss": total, "learning_rate": self.optimizer.param_groups[0]["lr"]}

    def save(self, folder: Path) -> None:
        """Weights, moments and counts."""
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, folder / "state.pt")
        (folder / "counts.json").write_text(json.dumps({"fetches": self.fetches, "updates": self.updates}))

    @torch.no_grad()
    def validate(self) -> float:
        """On a batch that the stream never gives."""
        return loss(self.model, draw(torch.Generator().manual_seed(10**6))).item()


def subject(*, by_fetches: bool) -> Subject:
    """The run, and what its author says of it."""
    return Subject(
        name="progress", model=Decoder, batch=draw, loss=loss, loop=lambda: Run(by_fetches=by_fetches),
        hyperparameters={"learning_rate": PEAK, "steps": UPDATES},
    )  # fmt: skip


def faulty() -> Subject:
    """By fetches, and below zero."""
    return subject(by_fetches=True)


def fixed() -> Subject:
    """By updates."""
    return subject(by_fetches=False)
