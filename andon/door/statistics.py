"""Running statistics of batch norms: of a model as it began, and of copies of it that are evaluated.

What a copy began with is noted where it is made, by `deepcopy`, or is what the model began with.
"""

from collections import Counter
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from andon.door.holding import held
from andon.door.records import Passes, Run, Stale

ALIKE = 0.5  # least cosine of the way that a copy went, and of the way from where it began to the model


class Norm(NamedTuple):
    """One batch norm."""

    statistics: Tensor
    affine: Tensor  # its weight and bias


Norms = dict[str, Norm]


class Statistics:
    """What models and their copies began with, and whether it is what they are evaluated with."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._begun: WeakKeyDictionary[nn.Module, Norms] = WeakKeyDictionary()  # models, before they were trained
        self._made: WeakKeyDictionary[nn.Module, Norm] = WeakKeyDictionary()  # batch norms that are copies
        self._moved: set[int] = set()  # models whose statistics have left what they began with
        self._looked: Counter[int] = Counter()  # modules, and the step after which they were looked at

    def made(self, module: nn.Module, *_: object) -> None:
        """A module was copied: `deepcopy` gives each its state."""
        if not self.run.over and _has(module):
            self._made[module] = _norm(module)

    def trains(self, module: nn.Module) -> None:
        """A pass with gradients begins."""
        if module not in self._begun:
            self._begun[module] = _now(_norms(module))
        elif id(module) not in self._moved and self._begun[module]:
            norms = _norms(module)
            if any(not torch.equal(_norm(norms[name]).statistics, was.statistics) for name, was in self._of(module)):
                self._moved.add(id(module))

    def _of(self, module: nn.Module) -> list[tuple[str, Norm]]:
        norms = _norms(module)
        return [(name, was) for name, was in self._begun[module].items() if name in norms]

    def evaluates(self, passes: Passes, module: nn.Module) -> None:
        """A pass in eval mode without gradients begins; one of a module after a step is looked at."""
        if self._looked[id(module)] == self.run.steps or not any(map(len, self._begun.values())):
            return
        self._looked[id(module)] = self.run.steps
        for model, begun in list(self._begun.items()):
            if begun and id(model) in self._moved:
                for part in (each for each in module.modules() if type(each) is type(model)):
                    self._compare(passes, part, model, begun)

    def _compare(self, passes: Passes, part: nn.Module, model: nn.Module, begun: Norms) -> None:
        norms, same = _norms(part), part is model
        if norms.keys() != begun.keys() or (not same and self._is_trained(part)):
            return
        began = begun if same else {name: self._made.get(each, begun[name]) for name, each in norms.items()}
        now, theirs = _now(norms), _now(_norms(model))
        if not (_fit(began, now) and _fit(began, theirs)):
            return
        moved = list(now) if same else _moved(began, theirs)
        if _is_evaluated(norms, moved) and _followed(began, now, theirs, same):
            self._note(passes, part, len(moved), set(moved).isdisjoint(_moved(began, now)), same)

    def _note(self, passes: Passes, part: nn.Module, count: int, stale: bool, same: bool) -> None:
        if stale or not same:
            place = next(iter(passes.chain), None)
            self.run.evaluated_copies.append(Stale(type(part).__name__, place, count, stale, self.run.steps))

    def _is_trained(self, part: nn.Module) -> bool:
        known = held(self.run, least=1)
        return part in self._begun or any(id(p) in known for p in part.parameters())


def _fit(began: Norms, now: Norms) -> bool:
    """Whether they are those that there were, and as large."""
    return now.keys() == began.keys() and all(
        began[name].statistics.shape == each.statistics.shape for name, each in now.items()
    )


def _moved(began: Norms, now: Norms) -> list[str]:
    """Those whose statistics are not what they began with."""
    return [name for name, each in now.items() if not torch.equal(each.statistics, began[name].statistics)]


def _is_evaluated(norms: dict[str, nn.Module], moved: list[str]) -> bool:
    return bool(moved) and not any(norms[name].training for name in moved)


def _followed(began: Norms, now: Norms, theirs: Norms, same: bool) -> bool:
    """Whether weights went from where they began in the direction of the model's; in the model itself, at all."""
    start = torch.cat([each.affine for each in began.values()])
    went = torch.cat([each.affine for each in now.values()]) - start
    if not bool(went.any()) or same:
        return bool(went.any())
    way = torch.cat([theirs[name].affine for name in now]) - start
    return float(torch.dot(went, way)) > ALIKE * float(went.norm()) * float(way.norm())


def _norms(module: nn.Module) -> dict[str, nn.Module]:
    return {name: each for name, each in module.named_modules() if _has(each)}


def _now(norms: dict[str, nn.Module]) -> Norms:
    return {name: _norm(each) for name, each in norms.items()}


def _has(module: nn.Module) -> bool:
    """Whether it is a batch norm that keeps statistics, and learns a scale."""
    is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - all of torch's
    return is_norm and module.running_mean is not None and module.running_var is not None and module.affine


@torch.no_grad()
def _norm(module: nn.Module) -> Norm:
    """In double precision, which holds each number exactly, and where all of them can be compared."""
    mean, var, weight, bias = (
        getattr(module, name).cpu().double() for name in ("running_mean", "running_var", "weight", "bias")
    )
    return Norm(torch.cat((mean, var)), torch.cat((weight, bias)))
