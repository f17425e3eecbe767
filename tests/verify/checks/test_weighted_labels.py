"""Labels that weigh unlike: steps and evaluations are held to the mean that the loss is shown to take."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify.run.report import RED
from andon.verify.subject import Subject
from tests.verify.checks.test_correct_training import GREEN, light
from tests.verify.small import batch, small

pytestmark = pytest.mark.long
Parts = Callable[[Any, dict[str, Tensor]], tuple[Tensor, Tensor]]
CHECKS = ("accumulation.gradient", "accumulation.reported_loss", "accumulation.many", "evaluation.mean")


def weighted(generator: torch.Generator) -> dict[str, Tensor]:
    """Half of the labels weigh a quarter, and the last ones nothing."""
    made = batch(generator)
    weights = torch.where(torch.rand(made["labels"].shape, generator=generator) < 0.5, 0.25, 1.0)
    weights[:, -1] = 0
    return made | {"loss_mask": weights}


def repeated(generator: torch.Generator) -> dict[str, Tensor]:
    """The same for a loss that shifts, with the weights under another name."""
    made = weighted(generator)
    return {"input_ids": made["tokens"], "labels": made["tokens"], "importance": made["loss_mask"]}


def as_they_stand(model: nn.Module, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The sum of losses, and that of weights."""
    losses = cross_entropy(model(given["tokens"]).flatten(0, 1), given["labels"].flatten(), reduction="none")
    weights = given["loss_mask"].flatten()
    return (losses * weights).sum(), weights.sum()


def shifted(model: nn.Module, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The same, one ahead."""
    logits = model(given["input_ids"])[:, :-1].flatten(0, 1)
    losses = cross_entropy(logits, given["labels"][:, 1:].flatten(), reduction="none")
    weights = given["importance"][:, 1:].flatten()
    return (losses * weights).sum(), weights.sum()


def by_number(model: nn.Module, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Divided by how many count, whatever they weigh."""
    return as_they_stand(model, given)[0], (given["loss_mask"] > 0).sum()


def subject(parts: Parts, make: Callable[..., Any], *, right: bool) -> Subject:
    """A subject whose step and evaluation are the mean of all, or of micro-batches' means."""

    def mean(model: nn.Module, given: list[Any]) -> Tensor:
        sums = [parts(model, each) for each in given]
        if right:
            return torch.stack([loss for loss, _ in sums]).sum() / torch.stack([weight for _, weight in sums]).sum()
        return torch.stack([loss / weight for loss, weight in sums]).mean()

    def step(model: Any, optimizer: Any, given: list[Any]) -> Mapping[str, float]:
        optimizer.zero_grad()
        total = mean(model, given)
        total.backward()
        optimizer.step()
        return {"loss": float(total)}

    @torch.no_grad()
    def validate(model: nn.Module, given: list[Any]) -> float:
        was = model.training
        found = float(mean(model.eval(), given))
        model.train(was)
        return found

    return small(
        batch=make, loss=lambda model, given: mean(model, [given]), train_step=step, validate=validate,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )  # fmt: skip


@pytest.mark.parametrize(("parts", "make"), [(as_they_stand, weighted), (shifted, repeated)])
def test_means_are_weighed_as_the_loss_weighs_its_labels(parts: Parts, make: Callable[..., Any]) -> None:
    """Behavior: the mean over all weights passes; a mean of means is wrong in a step, its log and an evaluation."""
    right, wrong = (subject(parts, make, right=each) for each in (True, False))
    assert [GREEN] * 4 == [light(right, name) for name in CHECKS]
    assert [RED] * 3 == [light(wrong, name) for name in CHECKS if name != "accumulation.many"]


def test_what_is_divided_by_a_number_is_weighed_by_it() -> None:
    """Behavior: where the loss divides by how many labels count, a batch weighs as many."""
    right = subject(by_number, weighted, right=True)
    assert [GREEN] * 2 == [light(right, name) for name in ("accumulation.gradient", "evaluation.mean")]
