"""Schedule-free optimizers: no decaying rate, and weights that are averages while the optimizer is evaluating."""

from dataclasses import dataclass
from typing import Any

import schedulefree
import torch
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "schedulefree 1.4.1"


@dataclass
class Table:
    """Numbers, categories, and what to predict."""

    numeric: Tensor
    category: Tensor
    target: Tensor


class Tabular(nn.Module):
    """An embedding of the category beside the numbers, through an MLP with residual blocks."""

    def __init__(self, numbers: int = 6, kinds: int = 5, width: int = 32) -> None:
        super().__init__()
        self.kinds = nn.Embedding(kinds, 4)
        self.first = nn.Linear(numbers + 4, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.last = nn.Linear(width, 1)

    def forward(self, numeric: Tensor, category: Tensor) -> Tensor:
        """One number per row."""
        x = self.first(torch.cat([numeric, self.kinds(category)], dim=-1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x).squeeze(-1)


def rows(generator: torch.Generator) -> Table:
    """The target is a sum of two numbers, scaled by the category."""
    numeric = torch.randn(32, 6, generator=generator)
    category = torch.randint(0, 5, (32,), generator=generator)
    target = (numeric[:, 0] + numeric[:, 1] * numeric[:, 2]) * (0.5 + category / 4)
    return Table(numeric, category, target)


def huber(model: nn.Module, batch: Table) -> Tensor:
    """Huber's loss."""
    return nn.functional.huber_loss(model(batch.numeric, batch.category), batch.target)


def adamw_table() -> Subject:
    """AdamW without a schedule but with its own warm-up; it has to be told that training goes on."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made = schedulefree.AdamWScheduleFree(model.parameters(), lr=5e-3, warmup_steps=10, weight_decay=1e-2)
        made.train()
        return made

    def train_step(model: nn.Module, optimizer: Any, batches: list[Table]) -> dict[str, float]:
        model.train()
        optimizer.train()
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = huber(model, batch) / len(batches)
            loss.backward()
            total += loss.item()
        optimizer.step()
        return {"loss": total}

    return Subject(
        name="schedulefree-adamw-table",
        model=Tabular,
        batch=rows,
        loss=huber,
        optimizer=optimizer,
        train_step=train_step,
        causal=False,
    )


def sgd_digits() -> Subject:
    """SGD without a schedule on a small convolutional classifier with batch norms."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
        )  # fmt: skip

    def strokes(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(0, 4, (16,), generator=generator)
        image = 0.3 * torch.randn(16, 1, 8, 8, generator=generator)
        line = torch.stack(
            [torch.eye(8), torch.eye(8).flip(0), torch.ones(8, 1) * (torch.arange(8) == 3),
             (torch.arange(8) == 4).float().unsqueeze(1) * torch.ones(8)]
        )  # fmt: skip
        return image + line[label].unsqueeze(1), label

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        made = schedulefree.SGDScheduleFree(model.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-4)
        made.train()
        return made

    return Subject(
        name="schedulefree-sgd-strokes",
        model=build,
        batch=strokes,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer=optimizer,
        causal=False,
    )


SUBJECTS = {"schedulefree-adamw-table": adamw_table, "schedulefree-sgd-strokes": sgd_digits}
