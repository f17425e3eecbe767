"""Parameters that a loss reaches and no module names: what a plain list of modules holds."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from andon.door.idle import ENTRIES

if TYPE_CHECKING:
    from andon.door.records import Run

LOOKS = (3, 12, 40)  # backward passes whose graphs are gone through
NODES = 20_000  # of a graph


class Strays:
    """Parameters at the leaves of losses' graphs, as they were when they were first seen."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[nn.Parameter, Tensor, int]] = {}  # by id; the last: in how many looks

    def begin(self, run: "Run", loss: Any) -> None:
        """A backward pass begins."""
        if run.backwards not in LOOKS or not isinstance(loss, Tensor):
            return
        known = {id(p) for module in run.modules.values() for p in module.parameters()}
        for p in _leaves(loss):
            if id(p) not in known:
                _, first, looks = self.seen.get(id(p), (p, p.detach().reshape(-1)[:ENTRIES].clone(), 0))
                self.seen[id(p)] = p, first, looks + 1

    def left(self, held: set[int], least: int) -> list[nn.Parameter]:
        """Those that were seen so often, that nobody holds, and that are what they were."""
        return [
            p
            for p, first, looks in self.seen.values()
            if looks >= least and id(p) not in held and torch.equal(p.detach().reshape(-1)[:ENTRIES], first)
        ]


def _leaves(loss: Tensor) -> Iterator[nn.Parameter]:
    """The parameters that a backward pass from here adds gradients to."""
    waiting, gone = [loss.grad_fn], set[Any]()
    while waiting and len(gone) < NODES:
        node = waiting.pop()
        if node is None or node in gone:
            continue
        gone.add(node)
        leaf = getattr(node, "variable", None)
        if type(leaf) is nn.Parameter and leaf.layout == torch.strided:
            yield leaf
        waiting += [each for each, _ in node.next_functions]
