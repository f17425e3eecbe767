"""A mean teacher by ema-pytorch: the average of the student's weights teaches it on examples without labels."""

from typing import Any, NamedTuple

import torch
from ema_pytorch import EMA
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "ema-pytorch 0.8.3"


class Half(NamedTuple):
    """Some examples with labels, more without."""

    labeled: Tensor
    label: Tensor
    unlabeled: Tensor


class MeanTeacher(nn.Module):
    """Student and teacher; the teacher holds no parameter that learns by gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(
            nn.Linear(2, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)
        )
        self.teacher = EMA(self.student, beta=0.99, update_after_step=0, update_every=1, include_online_model=False)

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits."""
        return self.student(x)


def moons(generator: torch.Generator, rows: int) -> tuple[Tensor, Tensor]:
    """Two half moons."""
    label = torch.randint(0, 2, (rows,), generator=generator)
    angle = torch.rand(rows, generator=generator) * 3.14159
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    x = torch.where(label.unsqueeze(1) == 1, torch.tensor([1.0, 0.5]) - x, x)
    return x + 0.1 * torch.randn(rows, 2, generator=generator), label


def mean_teacher() -> Subject:
    """Cross-entropy where there are labels, and agreement with the teacher on all, the teacher's side detached."""

    def batch(generator: torch.Generator) -> Half:
        return Half(*moons(generator, 16), moons(generator, 48)[0])

    def loss(model: Any, batch: Half) -> Tensor:
        told = F.cross_entropy(model(batch.labeled), batch.label)
        with torch.no_grad():
            taught = model.teacher(batch.unlabeled).softmax(-1)
        agreement = F.mse_loss(model(batch.unlabeled).softmax(-1), taught)
        return told + 2.0 * agreement

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Half]) -> dict[str, float]:
        optimizer.zero_grad()
        total = torch.stack([loss(model, each) for each in batches]).mean()
        total.backward()
        optimizer.step()
        model.teacher.update()
        return {"loss": total.item()}

    return Subject(
        name="ema-pytorch-mean-teacher",
        model=MeanTeacher,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.SGD(model.student.parameters(), lr=0.1, momentum=0.9, nesterov=True),
        train_step=train_step,
        causal=False,
    )


SUBJECTS = {"ema-pytorch-mean-teacher": mean_teacher}
