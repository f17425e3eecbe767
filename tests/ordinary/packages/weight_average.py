"""Moving averages of weights by torch-ema, kept up in the training step and used to evaluate."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch_ema import ExponentialMovingAverage

from andon.verify import Subject

SOURCE = "torch-ema 0.3"

AVERAGES: weakref.WeakKeyDictionary[nn.Module, ExponentialMovingAverage] = weakref.WeakKeyDictionary()


class Forecaster(nn.Module):
    """A GRU that reads time first and says the next value."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 24)
        self.out = nn.Linear(24, 2)

    def forward(self, series: Tensor) -> Tensor:
        """The next value after each (time, batch, 2)."""
        states, _ = self.gru(series)
        return series + self.out(states)


def circles(generator: torch.Generator) -> Tensor:
    """Points that go round, (time, batch, 2), noisy."""
    speed = 0.2 + 0.4 * torch.rand(8, generator=generator)
    angle = torch.arange(20).unsqueeze(1) * speed + 6 * torch.rand(8, generator=generator)
    return torch.stack([angle.cos(), angle.sin()], dim=-1) + 0.02 * torch.randn(20, 8, 2, generator=generator)


def one_ahead(model: nn.Module, series: Tensor) -> Tensor:
    """Mean squared error of the next value."""
    return (model(series[:-1]) - series[1:]).pow(2).mean()


def averaged_forecaster() -> Subject:
    """Adam, the average updated after each step, validation on averaged weights."""

    def average(model: nn.Module) -> ExponentialMovingAverage:
        if model not in AVERAGES:
            AVERAGES[model] = ExponentialMovingAverage(model.parameters(), decay=0.99)
        return AVERAGES[model]

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        ema = average(model)
        model.train()
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = one_ahead(model, batch) / len(batches)
            loss.backward()
            total += float(loss)
        optimizer.step()
        ema.update()
        return {"loss": total}

    @torch.no_grad()
    def validate(model: nn.Module, batches: list[Tensor]) -> float:
        was_training = model.training
        model.eval()
        with average(model).average_parameters():
            mean = sum(one_ahead(model, batch).item() for batch in batches) / len(batches)
        model.train(was_training)
        return mean

    return Subject(
        name="torch-ema-forecaster",
        model=Forecaster,
        batch=circles,
        loss=one_ahead,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        train_step=train_step,
        validate=validate,
    )


SUBJECTS = {"torch-ema-forecaster": averaged_forecaster}
