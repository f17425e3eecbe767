"""How far apart the scores of classes are, as the gradient of a cross-entropy shows it: now and then in a run.

Nothing that autograd has saved is read: an unpacking of it may be noted, or allowed once. Where G is the gradient of
log probabilities and g that of scores, g = G - p * sum(G), from which the probabilities p follow.
Legend: R rows, C classes.
"""

import math
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from andon.door.readable import is_readable
from andon.door.safely import safely

if TYPE_CHECKING:
    from andon.door.records import Run

FIRST, APART = 30, 1.25  # steps of a run at the first look, and from one to the next, as a factor
NODES = 256  # of a graph, from the loss on, among which the cross-entropy is looked for
ROWS = 32  # of a batch that are looked at
FEWEST = 3  # classes
PICKS = ("NllLossBackward0", "NllLoss2DBackward0")
MADE = "LogSoftmaxBackward0"
RESHAPED = ("View", "Squeeze", "Unsqueeze", "Reshape")
BITS = 64  # of an axis that autograd keeps without a sign


class Look(NamedTuple):
    """At one step."""

    steps: int
    spread: float  # between the scores of a row, at most; infinite where few classes are left
    classes: int


class Flatness:
    """What looks have shown."""

    def __init__(self) -> None:
        self.looks: list[Look] = []  # one a step, the farthest of all rows
        self._next, self._at = FIRST, -1

    def begin(self, run: "Run", loss: Any) -> None:
        """A backward pass begins: wait for the gradients of scores where a look is due."""
        if run.steps >= self._next:
            self._at, self._next = run.steps, math.ceil(APART * run.steps)
        if run.steps != self._at or not isinstance(loss, Tensor):
            return
        for node in set(_softmaxes(loss.grad_fn)):
            node.register_hook(partial(safely, run, self._arrive, run.steps, _axis(node)))

    def _arrive(self, steps: int, axis: int, given: tuple[Any, ...], due: tuple[Any, ...]) -> None:
        """Gradients of scores and of log probabilities."""
        scores, logs = given[0], due[0]
        if not (isinstance(scores, Tensor) and isinstance(logs, Tensor) and is_readable(scores) and is_readable(logs)):
            return
        g_RC, due_RC = (each.detach().movedim(axis, -1).flatten(0, -2) for each in (scores, logs))
        spread = _spread(g_RC, due_RC)
        if g_RC.shape[-1] >= FEWEST and spread is not None:
            before = self.looks.pop() if self.looks and self.looks[-1].steps == steps else Look(steps, 0.0, 0)
            self.looks.append(max(before, Look(steps, spread, g_RC.shape[-1])))


def _softmaxes(root: Any) -> Iterator[Any]:
    """Those whose log probabilities a class is picked from, in the last part of a graph."""
    seen, waiting = {root}, deque([root] if root is not None else [])
    while waiting and len(seen) < NODES:
        node = waiting.popleft()
        following = [each for each, _ in node.next_functions if each is not None and each not in seen]
        if node.name() in PICKS:
            yield from _made_of(node)
            continue
        seen.update(following)
        waiting.extend(following)


def _made_of(node: Any) -> Iterator[Any]:
    """The softmax whose result a class is picked from, in the same shape or with places in one line."""
    while (node := node.next_functions[0][0]) is not None and node.name().startswith(RESHAPED):
        pass
    if node is not None and node.name() == MADE:
        yield node


def _axis(node: Any) -> int:
    """The classes' axis."""
    axis = int(node._saved_dim)  # noqa: SLF001 - a number, and no saved tensor
    return axis - (1 << BITS) if axis >= 1 << (BITS - 1) else axis


def _spread(g_RC: Tensor, due_RC: Tensor) -> float | None:
    """The largest difference of a row's scores; None where no row counts."""
    sums_R = due_RC.sum(-1)
    rows = sums_R.nonzero().flatten()
    if not len(rows):
        return None
    rows = rows[:: math.ceil(len(rows) / ROWS)]
    p_RC = (due_RC[rows].double() - g_RC[rows].double()) / sums_R[rows].double()[:, None]
    there_RC = p_RC > 0
    most, least = p_RC.amax(-1), p_RC.masked_fill(~there_RC, math.inf).amin(-1)
    far_R = (most / least).log().masked_fill(there_RC.sum(-1) < FEWEST, math.inf)
    return float(far_R.max())
