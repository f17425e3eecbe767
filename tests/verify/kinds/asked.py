"""What the tests of each kind share: how a subject is asked, a wrong backward pass, a small character model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject, check
from andon.verify.run.report import Report

VOCAB = 41
Pair = tuple[Tensor, Tensor]


def asked(subject: Subject, *only: str) -> Report:
    """All checks, or these."""
    return check(subject, only=only)


def accusations(subject: Subject, *only: str) -> list[str]:
    """The checks that accuse or blame the subject, with what they say."""
    return [f"{each.check}: {each.message}" for each in asked(subject, *only).findings if each.light == "red"]


def named(subject: Subject, *only: str) -> set[str]:
    """The checks with a verdict of either light against the subject."""
    return {each.check for each in asked(subject, *only).findings if not each.mistake}


class _TornGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """As the class says."""
        ctx.save_for_backward(x)
        return x * torch.sigmoid(1.702 * x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """The gradient that it gives."""
        (x,) = ctx.saved_tensors
        return grads[0] * torch.sigmoid(1.702 * x)


class TornGelu(nn.Module):
    """A smooth activation whose backward pass forgets that its gate depends on the input."""

    def forward(self, x: Tensor) -> Tensor:
        """The right values."""
        return _TornGelu.apply(x)


def shifted(generator: torch.Generator, rows: int = 4, length: int = 9) -> Pair:
    """Words, and the words one ahead."""
    ids = torch.randint(1, VOCAB, (rows, length + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def token_loss(model: nn.Module, batch: Pair, **options: Any) -> Tensor:
    """Mean cross-entropy of the words one ahead."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), **options)


def words(*parts: nn.Module, width: int = 20) -> nn.Module:
    """An embedding, these parts, a head."""
    return nn.Sequential(nn.Embedding(VOCAB, width), *parts, nn.Linear(width, VOCAB))


def language(model: Callable[[], nn.Module], loss: Callable[..., Tensor] = token_loss, **parts: Any) -> Subject:
    """A subject on words."""
    return Subject(model=model, batch=shifted, loss=loss, **parts)


class Smooth(nn.Module):
    """The last few states' mean, so that positions mix and none sees a later one."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
