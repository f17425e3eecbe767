"""Activations that are computed again in the backward pass."""

import torch
from torch import nn

from andon.verify.access.calls import loss_of, seeded
from andon.verify.observation.parameters import State, trainable
from andon.verify.subject import Batch, Subject


def recompute(model: nn.Module) -> bool:
    """Switch activation checkpointing on, in place; False where the model has no switch, or refuses."""
    if hasattr(model, "activation_checkpointing"):
        setattr(model, "activation_checkpointing", True)  # noqa: B010 - no attribute that types know
    elif hasattr(model, "gradient_checkpointing_enable"):
        try:
            model.gradient_checkpointing_enable()
        except Exception:  # noqa: BLE001 - whatever it raises, it says that this model has no such thing
            return False
    else:
        return False
    return True


def gradient(subject: Subject, model: nn.Module, batch: Batch) -> State:
    """Gradients by `backward`, with which every kind of checkpointing works; zero where there is none."""
    model.zero_grad(set_to_none=True)
    with seeded():
        loss = loss_of(subject, model, batch)
        if loss.requires_grad:
            loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in trainable(model).items()
    }
