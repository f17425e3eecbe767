"""Copies of a model that follow it, such as an average of its weights: how far they go to it in each step."""

import gc
from typing import Any

import torch
from torch import Tensor, nn

from andon.door.records import Optimizing, Run

FIRST, LAST = 20, 30  # steps of an optimizer within which copies are looked at
ENTRIES = 4096  # of one tensor


class Followers:
    """Samples of one matrix of the model and of its copies, from step to step."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._pairs: list[tuple[Tensor, Tensor]] = []  # a copy's tensor, and the model's
        self._before: list[Tensor] = []
        self._aliases: list[tuple[Tensor, Tensor]] = []  # a tensor in the model's own storage, and the model's
        self._left: list[tuple[int, Tensor]] = []  # how often the model's were written to, and what they were
        self._written = 0  # windows in which each was written to, and stayed what it was

    def before_step(self, each: Optimizing) -> None:
        """Compare the copies with what they were a step ago, before the weights move on."""
        if each.model is None or not FIRST <= each.steps <= LAST:
            return
        if each.steps == FIRST:
            self._pairs, self._aliases = _copies(each.model)
        now = [_sample(copy) for copy, _ in self._pairs]
        if each.steps > FIRST and len(now) == len(self._before):
            for before, after, (_, weights) in zip(self._before, now, self._pairs, strict=True):
                self._note(before, after, _sample(weights))
        self._before = now
        self._look_at_aliases(each)

    def after_step(self, each: Optimizing) -> None:
        """What the step left of weights that something else shares."""
        if each.model is not None and FIRST <= each.steps <= LAST:
            self._left = [(own._version, _sample(own)) for _, own in self._aliases]  # noqa: SLF001 - torch has no other

    def _look_at_aliases(self, each: Optimizing) -> None:
        """Whether weights were written to since the step, by what they are; in the last window, whose doing it was."""
        seen = [
            own._version > version and torch.equal(_sample(own), sample)  # noqa: SLF001
            for (_, own), (version, sample) in zip(self._aliases, self._left, strict=False)
        ]
        self._written += bool(seen) and all(seen)
        if each.steps == LAST and self._written == LAST - FIRST:
            kept = {id(alias) for alias, _ in _copies(each.model)[1]}
            self.run.aliased += [tuple(own.shape) for alias, own in self._aliases if id(alias) in kept]

    def _note(self, before: Tensor, after: Tensor, weights: Tensor) -> None:
        way, went = weights - before, after - before
        length = float(way.square().sum())
        share = float((way * went).sum()) / length if length else 0.0
        if share and float((went - share * way).norm()) < 1e-2 * float(went.norm()):
            self.run.average_shares.append(share)


def _copies(model: nn.Module) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """The largest matrix of the model in each other module of its type, and in each dictionary of its names.

    Beside the copies, tensors that are in the model's own storage.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    name = max(named, key=lambda each: named[each].numel(), default="")
    if not name:
        return [], []
    own = named[name]
    found = [_of_name(other, name) for other in _modules_and_mappings(type(model), len(named))]
    others = [each for each in found if each is not None and each.shape == own.shape and each is not own]
    copies: list[tuple[Tensor, Tensor]] = [(each, own) for each in others if each.data_ptr() != own.data_ptr()]
    aliases: list[tuple[Tensor, Tensor]] = [(each, own) for each in others if each.data_ptr() == own.data_ptr()]
    return copies, aliases


def _modules_and_mappings(kind: type, fewest: int) -> list[Any]:
    """Modules of a type, and dictionaries of so many names, among the objects that a script has made."""
    kinds = {kind, dict}
    return [
        other
        for other in [each for each in gc.get_objects() if type(each) in kinds]
        if type(other) is kind or len(other) >= fewest
    ]


def _of_name(other: Any, name: str) -> Tensor | None:
    """What a module or a dictionary has under a parameter's name."""
    value = other.get(name) if type(other) is dict else dict(other.named_parameters()).get(name)
    return value if isinstance(value, Tensor) else None


def _sample(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1)[:ENTRIES].double().clone()
