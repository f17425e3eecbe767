"""A second prediction, of the token after the next one, beside the usual one."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject
from tests.reports.small import DIM, LENGTH, ROWS, VOCAB, Batch, Decoder, draw, next_token_loss

BUG = "the head that predicts two tokens ahead is trained on prompts too, which the labels leave out"
SHARE = 0.4


class Ahead(Decoder):
    """The decoder with one matrix more, before the same head."""

    def __init__(self) -> None:
        super().__init__()
        self.onward = nn.Linear(DIM, DIM)

    def both(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits one and two tokens ahead."""
        states = self.states(ids)
        return self.head(states), self.head(states + torch.tanh(self.onward(states)))


def prompted(generator: torch.Generator) -> Batch:
    """Rows that begin with a prompt of their own length."""
    batch = draw(generator)
    prompt = torch.randint(2, LENGTH - 3, (ROWS, 1), generator=generator)
    batch["labels"] = batch["labels"].masked_fill(torch.arange(LENGTH) < prompt, -100)
    return batch


def both_losses(model: Any, batch: Batch, *, everywhere: bool) -> Tensor:
    """The next token's loss and a share of that of the one after."""
    near, far = model.both(batch["input_ids"])
    wanted = batch["input_ids"][:, 2:] if everywhere else batch["labels"][:, 2:]
    further = F.cross_entropy(far[:, :-2].reshape(-1, VOCAB), wanted.reshape(-1), ignore_index=-100)
    return next_token_loss(near, batch["labels"]) + SHARE * further


def subject(*, everywhere: bool) -> Subject:
    """With the logits of the next token."""
    return Subject(
        name="second head", model=Ahead, batch=prompted, logits=lambda model, batch: model(batch["input_ids"]),
        loss=lambda model, batch: both_losses(model, batch, everywhere=everywhere),
    )  # fmt: skip


def faulty() -> Subject:
    """Every token two ahead."""
    return subject(everywhere=True)


def fixed() -> Subject:
    """Those of the answer."""
    return subject(everywhere=False)
