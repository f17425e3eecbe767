"""Copies of a model that follow it, such as an average of its weights: how far they go to it in each step."""

import gc
from typing import Any

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

    def before_step(self, each: Optimizing) -> None:
        """Compare the copies with what they were a step ago, before the weights move on."""
        if each.model is None or not FIRST <= each.steps <= LAST:
            return
        if each.steps == FIRST:
            self._pairs = _copies(each.model)
        now = [_sample(copy) for copy, _ in self._pairs]
        if each.steps > FIRST and len(now) == len(self._before):
            for before, after, (_, weights) in zip(self._before, now, self._pairs, strict=True):
                self._note(before, after, _sample(weights))
        self._before = now

    def _note(self, before: Tensor, after: Tensor, weights: Tensor) -> None:
        way, went = weights - before, after - before
        length = float(way.square().sum())
        share = float((way * went).sum()) / length if length else 0.0
        if share and float((went - share * way).norm()) < 1e-2 * float(went.norm()):
            self.run.average_shares.append(share)


def _copies(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The largest matrix of the model in each other module of its type, and in each dictionary of its names."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    name = max(named, key=lambda each: named[each].numel(), default="")
    if not name:
        return []
    own = named[name]
    found = (_of_name(other, name) for other in _modules_and_mappings(type(model), len(named)))
    return [(each, own) for each in found if each is not None and _is_copy(each, own)]


def _modules_and_mappings(kind: type, fewest: int) -> list[Any]:
    """Modules of a type, and dictionaries of so many names, among the half million objects of a process."""
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


def _is_copy(tensor: Tensor, own: Tensor) -> bool:
    return tensor.shape == own.shape and tensor.data_ptr() != own.data_ptr()


def _sample(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1)[:ENTRIES].double().clone()
