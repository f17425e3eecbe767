"""Averaged weights that run away from the model instead of following it."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from andon.verify import Subject
from tests.reports.small import Decoder, draw, loss

BUG = "each step moves the averaged weights away from the model, by the difference that should have drawn them near"
KEEP = 0.8
VALIDATION = [draw(torch.Generator().manual_seed(500 + number)) for number in range(3)]


class Run:
    """A training run that evaluates and saves an exponential average of its weights."""

    def __init__(self, towards: float) -> None:
        torch.manual_seed(7)
        self.model: nn.Module = Decoder()
        self.towards, self.steps = towards, 0
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3, weight_decay=0.0)

    def step(self) -> dict[str, float]:
        """A batch, an update, and the average after it."""
        self.model.train()
        value = loss(self.model, draw(torch.Generator().manual_seed(self.steps)))
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.model.parameters(), strict=True)
            for average, weight in pairs:
                average += self.towards * (1 - KEEP) * (weight - average)
        self.steps += 1
        return {"loss": value.item()}

    def state(self) -> dict[str, object]:
        """All that a later process needs."""
        parts = {"model": self.model, "averaged": self.averaged, "optimizer": self.optimizer}
        return {name: part.state_dict() for name, part in parts.items()} | {"steps": self.steps}

    def save(self, folder: Path) -> None:
        """One file."""
        torch.save(self.state(), folder / "run.pt")

    def load(self, folder: Path) -> "Run":
        """Go on where that file was written."""
        state = torch.load(folder / "run.pt")
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        return self

    @torch.no_grad()
    def validate(self) -> float:
        """The loss of the averaged weights."""
        self.averaged.eval()
        return sum(loss(self.averaged, batch).item() for batch in VALIDATION) / len(VALIDATION)


def batches() -> list[dict[str, Tensor]]:
    """All validation batches."""
    return VALIDATION


def subject(towards: float) -> Subject:
    """The run, from both sides of a restart."""
    return Subject(
        name="averaged weights", model=Decoder, batch=draw, loss=loss, loop=lambda: Run(towards),
        resume=lambda folder: Run(towards).load(folder), validation_batches=batches,
    )  # fmt: skip


def faulty() -> Subject:
    """The sign is wrong."""
    return subject(-1.0)


def fixed() -> Subject:
    """The average follows."""
    return subject(1.0)
