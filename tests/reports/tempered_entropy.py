"""A policy that is sampled at a temperature, and an entropy bonus."""

import torch
from torch import Tensor, nn

from andon.verify import Subject
from tests.reports.small import Batch, Decoder, draw

BUG = "the entropy bonus is that of logits before the temperature, while the policy is that of the logits after it"
COOL, BONUS = 0.6, 0.02


def rollouts(generator: torch.Generator) -> Batch:
    """Sampled answers and what each was worth beside the others."""
    rewards = torch.randn(6, generator=generator)
    words = draw(generator, rows=6)["input_ids"]
    return {"input_ids": words, "advantages": (rewards - rewards.mean()) / rewards.std()}


def policy_loss(model: nn.Module, batch: Batch, *, before: bool) -> Tensor:
    """Policy gradient in its ratio form, on policy, less the bonus."""
    raw = model(batch["input_ids"])[:, :-1]
    cooled = torch.log_softmax(raw / COOL, -1)
    taken = cooled.gather(-1, batch["input_ids"][:, 1:].unsqueeze(-1)).squeeze(-1)
    ratio = torch.exp(taken - taken.detach())
    gained = (ratio * batch["advantages"].unsqueeze(-1)).mean()
    logp = torch.log_softmax(raw, -1) if before else cooled
    entropy = -(logp.exp() * logp).sum(-1).mean()
    return -gained - BONUS * entropy


def subject(*, before: bool) -> Subject:
    """With the logits that the model gives."""
    return Subject(
        name="tempered entropy", model=Decoder, batch=rollouts, logits=lambda model, batch: model(batch["input_ids"]),
        loss=lambda model, batch: policy_loss(model, batch, before=before),
    )  # fmt: skip


def faulty() -> Subject:
    """Two temperatures in one loss."""
    return subject(before=True)


def fixed() -> Subject:
    """One."""
    return subject(before=False)
