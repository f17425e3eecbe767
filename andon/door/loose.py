"""Parameters that a loss is computed of, and that no module of the run has and no optimizer holds."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from andon.door.holding import held
from andon.door.idle import LATE, is_plain, is_zero

if TYPE_CHECKING:
    from andon.door.records import Run

MOST = 20_000  # nodes of a graph that are looked at
VIEWS = 3  # nodes between a weight and what it is multiplied with
TRIED = 4  # parameters of which is asked what lies beneath
AGAIN = 2  # steps in which a parameter is seen before it is kept


class Mark(NamedTuple):
    """What a parameter is, in two numbers."""

    total: float
    norm: float


@dataclass
class Loose:
    """One such parameter."""

    known: weakref.ref[Any]
    mark: Mark
    kept: Any = None  # the parameter, once it came again: what a script makes for a step is not kept
    steps: int = 0  # in which it got a gradient, of those that were looked at
    inside: bool = False  # what is trained is beneath, and computes on with what this one makes


@dataclass
class LooseParameters:
    """All of a run."""

    looks: int = 0
    found: dict[int, Loose] = field(default_factory=dict)
    waiting: list[tuple[weakref.ref[Any], bool]] = field(default_factory=list)  # for their gradient, and `inside`

    def backward(self, run: "Run", loss: Any) -> None:
        """A backward pass begins: in some steps look at the leaves of its graph."""
        if not isinstance(loss, Tensor) or loss.grad_fn is None or not any(map(_is_due, run.optimizing.values())):
            return
        self.looks += 1
        self.waiting = [(weakref.ref(p), inside) for p, inside in _leaves(loss, _known(run), held(run, least=1))]

    def step(self) -> None:
        """An optimizer is about to step: which of them have a gradient?"""
        waiting, self.waiting = self.waiting, []
        for known, inside in waiting:
            p = known()
            if p is None or not is_plain(p.grad) or is_zero(p.grad):
                continue
            each = self.found.get(id(p))
            if each is None or each.known() is not p:
                each = self.found[id(p)] = Loose(known, mark(p))
            each.steps += 1
            each.inside |= inside
            each.kept = p if each.steps >= AGAIN else None

    def left(self, run: "Run") -> dict[int, Loose]:
        """Those that got gradients again and again, are what they were, and are nobody's to this day."""
        known = _known(run)
        again = {key: each for key, each in self.found.items() if each.kept is not None and key not in known}
        return {key: each for key, each in again.items() if each.kept.requires_grad and mark(each.kept) == each.mark}


def mark(p: Tensor) -> Mark:
    """Of a parameter as it is now."""
    now = p.detach().cpu().double()
    return Mark(float(now.sum()), float(now.norm()))


def _known(run: "Run") -> set[int]:
    """What optimizers hold, and what the modules have that were called."""
    modules = (*run.modules.values(), *run.owners.values())
    return held(run) | {id(p) for module in modules for p in module.parameters()}


def _is_due(each: Any) -> bool:
    return each.model is not None and each.steps in LATE and each.window.backwards == 1


def _leaves(loss: Tensor, known: set[int], trained: set[int]) -> Iterator[tuple[nn.Parameter, bool]]:
    """The parameters among the leaves of a loss's graph that are not known, and whether what is trained is around."""
    seen: dict[Any, bool] = {}
    found: dict[int, tuple[nn.Parameter, bool, Any]] = {}
    waiting = [(loss.grad_fn, False, loss.grad_fn)]  # node, whether trained weights take it up, what takes it first
    while waiting and len(seen) < MOST:
        node, above, taker = waiting.pop()
        if node in seen and (seen[node] or not above):
            continue
        seen[node] = above
        leaf = _leaf(node)
        if leaf is not None:
            if isinstance(leaf, nn.Parameter) and id(leaf) not in known:
                found[id(leaf)] = leaf, above, taker
            continue
        following = _following(node)
        taken = above or any(_weight(each, trained) for each in following)
        taker = node if len(following) > 1 else taker
        waiting += [(each, taken, taker) for each in following]
    inside = any(above and _is_above(taker, trained) for _, above, taker in islice(found.values(), TRIED))
    for leaf, above, _ in found.values():
        yield leaf, above and inside


def _following(node: Any) -> list[Any]:
    return [each for each, _ in node.next_functions if each is not None]


def _leaf(node: Any) -> Tensor | None:
    """The tensor whose gradient a node adds to."""
    return node.variable if type(node).__name__ == "AccumulateGrad" else None


def _weight(node: Any, trained: set[int]) -> bool:
    """Whether a node is that of a trained weight, or a view of one."""
    for _ in range(VIEWS):
        following = _following(node)
        if len(following) != 1:
            break
        node = following[0]
    return id(_leaf(node)) in trained


def _is_above(start: Any, trained: set[int]) -> bool:
    """Whether a node is computed of a trained weight."""
    seen, waiting = set(), [start]
    while waiting and len(seen) < MOST:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            if id(_leaf(node)) in trained:
                return True
            waiting += _following(node)
    return False
