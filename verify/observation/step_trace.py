"""What a training run really does: gradients as an update sees them, weights around it, tokens that the model is shown.

Nothing here relies on what the code under test says it did; hooks of torch's modules and optimizers see it happen.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.observation.parameters import State, buffers_of, parameters
from andon.verify.observation.passes import Call, backward_noted, calls_noted, places_noted
from andon.verify.observation.updates_seen import Update, updates_noted


class StepTrace(NamedTuple):
    """One step of a run: weights before and after, updates, calls of the model, what was logged."""

    before: State
    after: State
    updates: tuple[Update, ...]
    calls: tuple[Call, ...]
    logged: dict[str, Any]
    autocast: bool  # half precision was switched on somewhere inside
    buffers: State  # before it
    random: Tensor  # torch's state before it
    backward: bool  # gradients came by `backward()`, and not by hand


def trace_step(model: nn.Module, act: Callable[[], Mapping[str, Any] | None]) -> StepTrace:
    """Let `act` train this model, and trace what it does."""
    calls: list[Call] = []
    autocast: set[bool] = set()
    elsewhere: list[bool] = []
    passes: list[None] = []
    before, buffers, random = parameters(model), buffers_of(model), torch.get_rng_state()
    noted = calls_noted(model, calls, autocast), places_noted(model, before, elsewhere)
    with updates_noted(model, before, elsewhere) as updates, backward_noted(passes), noted[0], noted[1]:
        logged = dict(act() or {})
    traced = tuple(updates), tuple(calls), logged, True in autocast
    return StepTrace(before, parameters(model), *traced, buffers, random, bool(passes))
