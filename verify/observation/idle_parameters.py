"""Parameters, and rows and columns of matrices, that get no gradient from any of many models and batches."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from andon.verify.access.calls import gradients, new_model, seeded
from andon.verify.access.larger_weights import fill_zero_parameters, perturbed_model, shuffle_matrices
from andon.verify.observation.answers import answer, any_batch, loss_rounding
from andon.verify.observation.blocks import blocks_of
from andon.verify.observation.parameters import trainable
from andon.verify.observation.tolerances import distance
from andon.verify.observation.uses import Uses
from andon.verify.subject import Batch, Subject

DRAWS, UNCHANGED = 32, 6  # models and batches that may reach a parameter, and those in a row that reach no other one
LARGER = 1.5  # times a parameter, with which the loss is another one where it is used


class Lines(NamedTuple):
    """Rows or columns of a matrix."""

    idle: frozenset[int]  # those without a gradient
    count: int

    @classmethod
    def of(cls, idle: Tensor) -> "Lines":
        """Those that are marked."""
        return cls(frozenset(idle.nonzero().flatten().tolist()), len(idle))


class Idle(NamedTuple):
    """What got no gradient from any draw so far."""

    parameters: frozenset[str] = frozenset()
    lines: Mapping[tuple[str, str], Lines] = MappingProxyType({})  # of matrices that got some, by name, row or column

    @classmethod
    def of(cls, found: Mapping[str, Tensor], uses: Uses) -> "Idle":
        """What these gradients do not reach.

        Rows and columns count of a matrix that entered a product as a whole: rows that are looked up, and entries
        under a mask, need no gradient; nor do columns for which data itself held nothing.
        """
        lines = {}
        for name in uses.multiplied() & set(found):
            gradient = found[name]
            if gradient.dim() != 2 or gradient.layout != torch.strided:
                continue
            if name not in uses.looked_up:
                lines[name, "row"] = Lines.of(~gradient.ne(0).any(1))
            idle = ~gradient.ne(0).any(0)
            lines[name, "column"] = Lines.of(idle & uses.live_inputs[name] if name in uses.live_inputs else idle)
        return cls(
            frozenset(name for name, gradient in found.items() if not _is_live(gradient)),
            {key: each for key, each in lines.items() if each.idle},
        )

    def after(self, found: Mapping[str, Tensor], uses: Uses) -> "Idle":
        """What is idle still, after one more draw."""
        now = Idle.of(found, uses)
        both = {
            key: Lines(each.idle & now.lines[key].idle, each.count)
            for key, each in self.lines.items()
            if key in now.lines
        }
        return Idle(self.parameters & now.parameters, {key: each for key, each in both.items() if each.idle})


def idle_after_draws(subject: Subject) -> Idle:
    """What no draw reaches, of as many as reach something new, and some more."""
    idle, same = Idle.of(*_drawn(subject, 0)), 0
    for draw in range(1, DRAWS):
        before, idle = idle, idle.after(*_drawn(subject, draw))
        same = same + 1 if idle == before else 0
        if same == UNCHANGED or not (idle.parameters or idle.lines):
            break
    return idle


def _drawn(subject: Subject, draw: int) -> tuple[dict[str, Tensor], Uses]:
    """Gradients of another model on another batch: perturbed in eval mode, or as it trains, in turn; then shuffled."""
    seed = draw // 2
    model = perturbed_model(subject, seed) if draw % 2 == 0 else fill_zero_parameters(new_model(subject, seed)).train()
    model = shuffle_matrices(model, seed) if seed % 2 else model
    with seeded(draw), Uses(model) as uses:
        return gradients(subject, model, any_batch(subject, draw)), uses


def is_used(subject: Subject, names: list[str]) -> bool:
    """Whether the loss changes with these parameters."""
    model, batch = perturbed_model(subject), any_batch(subject)
    before = answer(subject, model, batch).loss
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(LARGER)
    return distance(answer(subject, model, batch).loss, before) > loss_rounding(subject, model, batch)


def is_reached(subject: Subject, batch: Batch, index: int) -> bool:
    """Whether the loss has a gradient at the parameters of this block."""
    model = perturbed_model(subject)
    inside = {id(parameter) for parameter in blocks_of(model)[index].parameters()}
    found = gradients(subject, model, batch)
    return any(_is_live(found[name]) for name, parameter in trainable(model).items() if id(parameter) in inside)


def _is_live(gradient: Tensor) -> bool:
    """Whether a gradient, which may be sparse, has an entry."""
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).ne(0).any())
