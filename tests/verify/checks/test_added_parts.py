"""What a part adds: no check that applied stops applying, but for a reason that names the part first."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from andon.verify import check
from andon.verify.run.report import Report
from andon.verify.subject import Subject
from tests.verify.checks.test_odd_training import adamw
from tests.verify.small import LENGTH, ROWS, Small, batch, loss, small

pytestmark = pytest.mark.long
Generator = torch.Generator
AREAS = ("accumulation", "attention", "data", "evaluation", "loss", "objective")


@torch.no_grad()
def validate(model: nn.Module, batches: list[Any]) -> float:
    """The mean over all labels that count."""
    was = model.training
    found = float(mean(model.eval(), batches))
    model.train(was)
    return found


def mean(model: nn.Module, batches: list[Any]) -> Tensor:
    """Of all labels of these batches."""
    counts = [int((each["labels"] >= 0).sum()) for each in batches]
    losses = [loss(model, each) * count for each, count in zip(batches, counts, strict=True)]
    return torch.stack(losses).sum() / sum(counts)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> Mapping[str, float]:
    """One update of all batches."""
    optimizer.zero_grad()
    total = mean(model, batches)
    total.backward()
    optimizer.step()
    return {"loss": float(total.detach())}


def epoch(number: int) -> list[dict[str, Tensor]]:
    """Five batches in an order."""
    order = torch.randperm(5, generator=Generator().manual_seed(number)).tolist()
    return [batch(Generator().manual_seed(seed)) for seed in order]


def batch_with(**parts: Callable[[], Any]) -> Callable[[Generator], Any]:
    """A batch with more in it."""
    return lambda generator: batch(generator) | {name: make() for name, make in parts.items()}


def instruction(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """A letter an id."""
    return [2] * len(prompt) + [3] * len(answer), [-100] * len(prompt) + [3] * len(answer)


def flat(_: int) -> float:
    """A rate."""
    return 1e-3


PARTS: dict[str, Any] = {"train_step": train_step, "optimizer": adamw, "validate": validate, "epoch_batches": epoch}
# What is added, and the check that is to say that it does not apply any more, if any.
ADDED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "mixture_of_experts": (
        {"mixture_of_experts": True}, {"attention.rows", "evaluation.cut", "loss.gradient", "objective.rows"},
    ),
    "causal": ({"causal": False}, {"attention.causality"}),
    "recurrent": ({"recurrent": True}, set()),
    "dtype": ({"dtype": torch.float32}, set()),
    "random_augmentation": ({"random_augmentation": True}, set()),
    "objective": ({"objective": "cross_entropy"}, set()),
    "marks": ({"eos_id": 1, "pad_id": 0}, set()),
    "roles": ({"roles": {"tokens": "tokens", "labels": "labels"}}, set()),
    "logits": ({"logits": lambda model, given: model(given["tokens"])}, set()),
    "rates": ({"lr_at": flat, "hyperparameters": {"learning_rate": 1e-3, "steps": 9}}, set()),
    "instructions": ({"encode_instruction": instruction}, set()),
    "validation batches": ({"validation_batches": lambda: [batch(Generator().manual_seed(90))]}, set()),
    "dropout": ({"model": lambda: Small(0.1)}, set()),
    "positions": ({"batch": batch_with(position_ids=lambda: torch.arange(LENGTH).repeat(ROWS, 1))}, set()),
    "documents": ({"batch": batch_with(document_ids=lambda: torch.zeros(ROWS, LENGTH, dtype=torch.int64))}, set()),
    "a mask of labels": ({"batch": batch_with(loss_mask=lambda: torch.ones(ROWS, LENGTH))}, set()),
    "numbers of rows": ({"batch": batch_with(index=lambda: torch.arange(ROWS))}, set()),
    "names of rows": ({"batch": batch_with(names=lambda: ["row"] * ROWS)}, set()),
}  # fmt: skip


def applied(report: Report) -> set[str]:
    """The checks that were not left out."""
    return {name for name in report.times if name not in report.not_applicable}


@pytest.fixture(scope="module")
def before() -> set[str]:
    """What applies without."""
    return applied(check(subject({}), only=AREAS))


def subject(parts: Mapping[str, Any]) -> Subject:
    """The subject with more."""
    return small(**{**PARTS, **parts})


@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_leaves_nothing_out_in_silence(name: str, before: set[str]) -> None:
    """Behavior: a check that stops applying names what was added first; all others go on, and nothing is found."""
    parts, left_out = ADDED[name]
    report = check(subject(parts), only=AREAS)
    assert not report.red, report.red
    gone = before - applied(report)
    assert gone == left_out
    (field, value), *_ = parts.items()
    for each in gone:
        assert report.not_applicable[each].startswith(f"{field}={value!r} leaves it out")
