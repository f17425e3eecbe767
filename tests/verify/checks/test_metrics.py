"""Metrics beside the loss: perplexity, accuracy and tokens are what they are called, in two kinds of code."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify import check
from andon.verify.run.report import RED, YELLOW
from tests.verify.checks.test_correct_training import GREEN
from tests.verify.small import batch, loss, said, small

pytestmark = pytest.mark.tier2
FINDERS = ("evaluation.metrics",)
Batch = dict[str, Tensor]
Metrics = Callable[[nn.Module, list[Any]], Mapping[str, float]]


def ragged(generator: torch.Generator) -> Batch:
    """Rows whose labels begin somewhere."""
    made = batch(generator)
    first = torch.randint(0, 4, (3, 1), generator=generator)
    return made | {"labels": made["labels"].masked_fill(torch.arange(6) < first, -100)}


def under(generator: torch.Generator) -> Batch:
    """The same, at the tokens' own places."""
    made = ragged(generator)
    labels = torch.cat([torch.full((3, 1), -100), made["labels"][:, :-1]], 1)
    return {"input_ids": made["tokens"], "labels": labels}


def shifting(model: nn.Module, given: Batch) -> Tensor:
    """For a loss that shifts."""
    return cross_entropy(model(given["input_ids"])[:, :-1].flatten(0, 1), given["labels"][:, 1:].flatten())


@torch.no_grad()
def counts(model: nn.Module, given: Batch, *, shift: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Nats, correct answers and labels, summed up over a batch."""
    logits = model(given.get("tokens", given.get("input_ids")))
    logits, labels = (logits[:, :-shift], given["labels"][:, shift:]) if shift else (logits, given["labels"])
    nats = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return nats, ((logits.argmax(-1) == labels) & (labels >= 0)).sum(), (labels >= 0).sum()


def summed(shift: int = 0) -> Metrics:
    """All are made of sums over batches."""

    def metrics(model: nn.Module, batches: list[Any]) -> Mapping[str, float]:
        model.eval()
        seen = [counts(model, each, shift=shift) for each in batches]
        nats, correct, count = (float(sum(column)) for column in zip(*seen, strict=True))
        model.train()
        mean = torch.tensor(nats / count)
        return {"loss": nats / count, "perplexity": float(mean.exp()), "accuracy": correct / count, "tokens": count}

    return metrics


def each_alone(key: str, value: Callable[[float, float, float], float]) -> Metrics:
    """One is the mean of what it is in each batch."""

    def metrics(model: nn.Module, batches: list[Any]) -> Mapping[str, float]:
        model.eval()
        found = [value(*map(float, counts(model, each))) for each in batches]
        model.train()
        return {key: sum(found) / len(found)}

    return metrics


def share(_: float, right: float, count: float) -> float:
    """Of what is right."""
    return right / count


def exponential(nats: float, _: float, count: float) -> float:
    """Of a mean."""
    return math.exp(nats / count)


def instead(key: str, value: Callable[[Mapping[str, float]], float]) -> Metrics:
    """One is made of the others in another way."""
    return lambda model, batches: {key: value(summed()(model, batches))}


def of_the_first(model: nn.Module, batches: list[Any]) -> Mapping[str, float]:
    """An evaluation that reads one batch."""
    return summed()(model, batches[:1])


def smoothed(model: nn.Module, given: Batch) -> Tensor:
    """A loss whose targets are spread, as no perplexity's are."""
    logits = model(given["tokens"])
    return cross_entropy(logits.flatten(0, 1), given["labels"].flatten(), label_smoothing=0.2)


def of_all_places(model: nn.Module, batches: list[Any]) -> Mapping[str, float]:
    """The divisor has the ignored labels in it."""
    found = summed()(model, batches)
    places = sum(each["labels"].numel() for each in batches)
    return {"accuracy": found["accuracy"] * found["tokens"] / places}


CASES: dict[str, tuple[dict[str, Any], Metrics, str, str]] = {
    "sums": ({}, summed(), GREEN, "passed"),
    "sums of shifted labels": ({"batch": under, "loss": shifting}, summed(1), GREEN, "passed"),
    "the first batch, as is said": ({"hyperparameters": {"eval_batches": 1}}, of_the_first, GREEN, "passed"),
    "the first batch's tokens": (
        {}, lambda model, batches: {"tokens": of_the_first(model, batches)["tokens"]}, RED, "the first batch's",
    ),
    "a smoothed loss": (
        {"loss": smoothed}, instead("perplexity", lambda found: found["perplexity"]), GREEN, "passed",
    ),
    "two to the power of a smoothed loss's nats": (
        {"loss": smoothed}, instead("perplexity", lambda found: 2 ** found["loss"]), RED, "2 to the power",
    ),
    "in percent": ({}, instead("accuracy", lambda found: 100 * found["accuracy"]), GREEN, "passed"),
    "accuracy of labels that are not shifted": (
        {"batch": under, "loss": shifting},
        lambda model, batches: {"accuracy": summed()(model, batches)["accuracy"]},
        RED,
        "that of labels at their own place",
    ),
    "accuracy of all places": ({}, of_all_places, RED, "the share of all places"),
    "a mean of accuracies": ({}, each_alone("accuracy", share), RED, "the mean of batches' own"),
    "a mean of perplexities": (
        {}, each_alone("perplexity", exponential), RED, "the mean of batches'",
    ),
    "two to the power of nats": ({}, instead("perplexity", lambda found: 2 ** found["loss"]), RED, "2 to the power"),
    "a loss that is a mean of means": ({}, each_alone("loss", lambda nats, _, n: nats / n), RED, "loss is"),
    "the last batch's tokens": (
        {}, lambda model, batches: {"tokens": summed()(model, batches[-1:])["tokens"]}, RED, "the last batch's",
    ),
    "something else": ({}, instead("accuracy", lambda found: found["accuracy"] / 3), YELLOW, "meant to be of other"),
    "no name that is known": ({}, lambda *_: {"bleu": 1.0}, GREEN, "metrics by one of the names"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_metrics_are_what_they_are_called(name: str) -> None:
    """Behavior: each metric is held to its name; what it is in place of that is said."""
    parts, metrics, outcome, message = CASES[name]
    report = check(small(**{"batch": ragged, "loss": loss, "metrics": metrics} | parts), only=FINDERS)
    assert (report.findings[0].light if report.findings else GREEN) == outcome, report
    assert message in said(report), report
