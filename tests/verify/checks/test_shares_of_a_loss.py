"""A step of several micro-batches is held to the weights that its loss is measured to give them."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify import check
from andon.verify.run.report import YELLOW
from tests.verify.small import batch, said, small

pytestmark = pytest.mark.tier2
PASSED, COUPLED = "passed", "a loss that is a mean over its rows or tokens"
Batch = Mapping[str, Tensor]
Share = Callable[[Batch, list[Batch]], Any]


def weighted(generator: torch.Generator) -> dict[str, Tensor]:
    """Tokens whose labels have weights, other ones in each batch."""
    made = batch(generator)
    return made | {"weights": torch.rand(made["labels"].shape, generator=generator) ** 3 + 0.05}


def weighted_loss(model: nn.Module, given: Batch) -> Tensor:
    """Divided by the sum of the weights."""
    each = cross_entropy(model(given["tokens"]).flatten(0, 1), given["labels"].flatten(), reduction="none")
    return (each * given["weights"].flatten()).sum() / given["weights"].sum()


class Normed(nn.Module):
    """Rows act on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Classes."""
        return self.layers(x)


def pictures(generator: torch.Generator) -> dict[str, Tensor]:
    """Vectors of other lengths, and their classes."""
    size = torch.rand((), generator=generator) * 2 + 0.5
    x = torch.randn(8, 6, generator=generator) * size
    return {"picture": x, "kind": torch.randint(3, (8,), generator=generator)}


def of_kinds(model: nn.Module, given: Batch) -> Tensor:
    """Mean over rows."""
    return cross_entropy(model(given["picture"]), given["kind"])


def stepping(loss: Callable[..., Tensor], share: Share) -> Callable[..., Any]:
    """A step that gives each micro-batch this share."""

    def step(model: nn.Module, optimizer: Any, batches: list[Batch]) -> dict[str, float]:
        optimizer.zero_grad()
        total = 0.0
        for each in batches:
            part = loss(model, each) * share(each, batches)
            part.backward()
            total += float(part)
        optimizer.step()
        return {"loss": total}

    return step


def alike(_: Batch, batches: list[Batch]) -> float:
    """Each micro-batch counts the same."""
    return 1 / len(batches)


def by_weight(each: Batch, batches: list[Batch]) -> Tensor:
    """Each counts by its weights."""
    return each["weights"].sum() / sum(other["weights"].sum() for other in batches)


def summed(_: Batch, __: list[Batch]) -> float:
    """Not divided."""
    return 1.0


PLAIN = {"model": lambda: nn.Linear(6, 3), "batch": pictures, "loss": of_kinds}
WEIGHTED = {"batch": weighted, "loss": weighted_loss}
CASES: dict[str, tuple[dict[str, Any], Share, str]] = {
    "labels with weights": (WEIGHTED, by_weight, PASSED),
    "labels with weights, summed": (WEIGHTED, summed, "differs by"),
    "labels with weights, each micro-batch the same": (WEIGHTED, alike, "differs by"),
    "rows without tokens": (PLAIN, alike, PASSED),
    "rows without tokens, summed": (PLAIN, summed, "differs by"),
    "rows that act on each other": (PLAIN | {"model": Normed}, alike, COUPLED),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_held_to_what_its_loss_does(name: str) -> None:
    """Behavior: shares are those of the loss of all rows; a loss that couples rows is not asked."""
    parts, share, outcome = CASES[name]
    report = check(small(**parts, train_step=stepping(parts["loss"], share)), only=("accumulation.gradient",))
    assert outcome in said(report)
    assert ("alike" in name) == any(finding.light == YELLOW for finding in report.findings)


@pytest.mark.parametrize(("counts", "outcome"), [(sum, PASSED), (lambda counts: counts[-1], "for them one by one")])
def test_tokens_are_counted_by_any_rule(counts: Callable[[list[int]], int], outcome: str) -> None:
    """Behavior: whatever a step counts as tokens, it counts that of each micro-batch."""
    plain = stepping(small().loss, alike)

    def step(model: nn.Module, optimizer: Any, batches: list[Batch]) -> dict[str, float]:
        return plain(model, optimizer, batches) | {"tokens": counts([each["tokens"].numel() - 2 for each in batches])}

    assert outcome in said(check(small(train_step=step), only=("accumulation.tokens",)))
