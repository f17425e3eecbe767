"""The cross-entropy that a loss is compared with.

Legend: B batch, T time, V vocab, R positions that count.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from andon.verify.access.calls import gradients_of
from andon.verify.access.logits import logits_of
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject

PIECE = 256  # rows whose logits are float64 at a time


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The independent reference: mean over counted targets, in float64."""
    counted_BT = targets_BT != IGNORE
    logits_RV, targets_R1 = logits_BTV[counted_BT], targets_BT[counted_BT][:, None]
    pieces = zip(logits_RV.split(PIECE), targets_R1.split(PIECE), strict=True)  # a large vocabulary fills the memory
    total = torch.stack([logits.double().log_softmax(-1).gather(-1, words).sum() for logits, words in pieces]).sum()
    return -total / len(targets_R1)


def cross_entropy_gradients(subject: Subject, model: nn.Module, batch: Batch, targets_BT: Tensor) -> dict[str, Tensor]:
    """Gradients of the reference by parameter name, for these targets; zero where there is none.

    Raises:
        NotApplicable: the logits have no graph.
    """
    value = cross_entropy(logits_of(subject, model, batch), targets_BT)
    if not value.requires_grad:
        raise NotApplicable("logits with a graph: Subject.logits without no_grad")
    return gradients_of(value, model)


def loss_alternatives(subject: Subject) -> Iterator[Subject]:
    """The subject, and of a mixture one whose loss leaves the router's part out: what is reported may be either."""
    yield subject
    if subject.mixture_of_experts:
        yield replace(subject, loss=lambda model, batch: _without_router(subject, model, batch))


def _without_router(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(logits_of(subject, model, batch), targets_of(subject, batch))
