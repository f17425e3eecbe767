"""What is true of the data of any training: whose labels, at which place, and rows that differ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

from andon.verify import check
from tests.verify.small import LENGTH, ROWS, VOCAB, batch, loss, said, small

pytestmark = pytest.mark.tier2
PASSED = "passed"
Batch = dict[str, Tensor]


def under(generator: torch.Generator) -> Batch:
    """Labels repeat the inputs."""
    tokens = batch(generator)["tokens"]
    return {"tokens": tokens, "labels": tokens.clone()}


def shifting(model: nn.Module, batch: Batch) -> Tensor:
    """The loss shifts the labels."""
    return cross_entropy(model(batch["tokens"])[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def preferring(model: nn.Module, batch: Batch) -> Tensor:
    """The first row over the second, with shifted labels: no single label's part can be told from the others'."""
    scores = model(batch["tokens"])[:2, :-1].log_softmax(-1)
    sums = scores.gather(-1, batch["labels"][:2, 1:, None]).sum((1, 2))
    return -logsigmoid(sums[0] - sums[1])


class Padded:
    """Documents whose last label is no input: shifted before they are padded."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda labels: labels) -> None:
        self.change = change

    def __call__(self, generator: torch.Generator) -> Batch:
        """Rows of 4 to 6 tokens, with an end."""
        tokens, labels = torch.zeros(ROWS, LENGTH, dtype=torch.int64), torch.full((ROWS, LENGTH), -100)
        for row in range(ROWS):
            size = 4 + row
            text = torch.cat([torch.randint(2, VOCAB, (size,), generator=generator), torch.tensor([1])])
            tokens[row, :size], labels[row, :size] = text[:-1], text[1:]
        return {"tokens": tokens, "labels": self.change(labels)}


def ahead_by_one_more(labels: Tensor) -> Tensor:
    """One target in a row's middle is another."""
    labels = labels.clone()
    labels[0, 1] = (labels[0, 1] + 1) % VOCAB
    return labels


def ignoring_zeros(model: nn.Module, batch: Batch) -> Tensor:
    """The loss leaves out labels of 0, which pad its rows."""
    return cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["labels"].flatten(), ignore_index=0)


def rolled(generator: torch.Generator) -> Batch:
    """Labels are shuffled apart from their inputs."""
    made = batch(generator)
    return made | {"labels": made["labels"].roll(1, 0)}


def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same, as a pair (x, y)."""
    made = rolled(generator)
    return made["tokens"], made["labels"]


def one_start(generator: torch.Generator) -> Batch:
    """All rows of a batch are one window."""
    return {key: part[:1].expand(ROWS, -1).clone() for key, part in batch(generator).items()}


def with_weights(generator: torch.Generator) -> Batch:
    """Rows of the same tokens, and of other parts."""
    return one_start(generator) | {"picture": torch.randn(ROWS, 4, generator=generator)}


def pair_loss(model: nn.Module, batch: Any) -> Tensor:
    """Of a pair."""
    return cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def repeated_micro_batches(_: int) -> list[list[Batch]]:
    """Each step's micro-batches are one batch."""
    return [[made, made] for made in (batch(torch.Generator().manual_seed(seed)) for seed in range(4))]


def micro_batches(_: int) -> list[list[Batch]]:
    """Each step has two batches."""
    made = [batch(torch.Generator().manual_seed(seed)) for seed in range(8)]
    return [made[start : start + 2] for start in range(0, 8, 2)]


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "labels one ahead, as they are read": ("data.targets", {}, PASSED),
    "labels repeat, and the loss shifts": ("data.targets", {"batch": under, "loss": shifting}, PASSED),
    "labels repeat, and the loss does not shift": ("data.targets", {"batch": under}, "learns to copy"),
    "labels one ahead, and the loss shifts too": ("data.targets", {"loss": shifting}, "shifted twice"),
    "a preference, and nothing shows what is predicted": (
        "data.targets",
        {"batch": under, "loss": preferring},
        "here the loss shifts, or may",
    ),
    "shifted before padding": ("data.targets", {"batch": Padded()}, PASSED),
    "shifted before padding, one wrong": (
        "data.targets",
        {"batch": Padded(ahead_by_one_more)},
        "not the token that follows",
    ),
    "padded by what the loss ignores": (
        "data.targets",
        {"batch": Padded(lambda labels: labels.clamp_min(0)), "loss": ignoring_zeros},
        PASSED,
    ),
    "padded by what the loss ignores, one wrong": (
        "data.targets",
        {"batch": Padded(lambda labels: ahead_by_one_more(labels.clamp_min(0))), "loss": ignoring_zeros},
        "1 of 12 targets",
    ),
    "labels of another row": ("data.targets", {"batch": rolled}, "are the tokens of another row"),
    "labels of another row in a pair": (
        "data.targets",
        {"batch": pair, "loss": pair_loss},
        "are the tokens of another row",
    ),
    "rows that differ": ("data.rows", {}, PASSED),
    "one window for all rows": ("data.rows", {"batch": one_start}, "rows repeat others: 2 of 3"),
    "one text with several pictures": ("data.rows", {"batch": with_weights}, PASSED),
    "micro-batches that differ": ("data.rows", {"epoch_batches": micro_batches}, PASSED),
    "micro-batches that are one": (
        "data.rows",
        {"epoch_batches": repeated_micro_batches},
        "rows repeat others: 3 of 6",
    ),
    "no tokens": (
        "data.rows",
        {
            "model": lambda: nn.Linear(4, 1),
            "batch": lambda generator: {"picture": torch.randn(3, 4, generator=generator)},
            "loss": lambda model, given: model(given["picture"]).square().mean(),
        },
        "tokens in the batch",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_data_is_told_from_its_faults(name: str) -> None:
    """Behavior: what is right passes, what is wrong is found by name, what lacks the premise is not asked."""
    only, parts, outcome = CASES[name]
    assert outcome in said(check(small(**{"loss": loss, **parts}), only=(only,)))
