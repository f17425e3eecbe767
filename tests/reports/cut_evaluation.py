"""Evaluation of documents that are longer than what the model is given."""

import torch
from torch import nn

from andon.verify import Subject
from tests.reports.small import Batch, Decoder, draw, loss, next_token_loss

BUG = "evaluation scores the last tokens of long documents and divides by the number of all their tokens"
WINDOW = 7


@torch.no_grad()
def evaluate(model: nn.Module, batches: list[Batch], *, by_length: bool) -> float:
    """The loss of the last tokens of each document, per token."""
    training = model.training
    model.eval()
    summed, tokens = 0.0, 0
    for batch in batches:
        ids, labels = (batch[key][:, -WINDOW:] for key in ("input_ids", "labels"))
        scored = int((labels[:, 1:] >= 0).sum())
        if scored:
            summed += next_token_loss(model(ids), labels).item() * scored
        tokens += int((batch["labels"][:, 1:] >= 0).sum()) if by_length else scored
    model.train(training)
    return summed / tokens


def subject(*, by_length: bool) -> Subject:
    """The usual model and its evaluation."""
    return Subject(
        name="evaluation of long documents", model=Decoder, batch=draw, loss=loss,
        validate=lambda model, batches: evaluate(model, batches, by_length=by_length),
    )  # fmt: skip


def faulty() -> Subject:
    """Long documents look easy."""
    return subject(by_length=True)


def fixed() -> Subject:
    """By what was scored."""
    return subject(by_length=False)
