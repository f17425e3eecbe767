"""A causal language model small enough for unit tests, and the subject that presents it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify.run.report import Report
from andon.verify.subject import Subject

VOCAB, WIDTH, ROWS, LENGTH = 11, 8, 3, 6


class Small(nn.Module):
    """Embeds, averages over the past, and reads off the next token."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        counts_T1 = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[:, None]
        return self.head(self.drop(torch.tanh(self.mix(x_BTD.cumsum(1) / counts_T1))) + x_BTD)


def batch(generator: torch.Generator) -> dict[str, Tensor]:
    """Tokens, and labels one ahead."""
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    return {"tokens": ids[:, :-1], "labels": ids[:, 1:]}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean nats per token."""
    return cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["labels"].flatten())


def small(**parts: Any) -> Subject:
    """The subject, with some parts exchanged."""
    given: dict[str, Any] = {"model": Small, "batch": batch, "loss": loss, "name": "small"}
    return Subject(**given | parts)


def said(report: Report) -> str:
    """What came of the one check that was run: its finding's message, that it passed, or what it needs."""
    if report.findings:
        return report.findings[0].message
    return "passed" if report.passed else "; ".join(report.not_applicable.values())
