"""Adapters that are merged into the weights beside them, and what the model says before and after it.

An adapter: two matrices that an optimizer trains, whose product is as large as a matrix that none trains. It is merged
where the latter changes between two passes by a multiple of that product. Of matrices a corner is kept.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.door.answers import apart, is_half
from andon.door.holding import held
from andon.door.readable import is_readable
from andon.door.records import Merge, Passes, Run
from andon.verify.access.batches import tensors_in

CORNER = 64  # rows and columns
MATRICES = 16  # of a model that are looked at
MOST = 1_000_000  # numbers of what a pass is given, and of what it returns
PASSES, ANSWERS = 8, 4  # after one step, and of the same rows
ALONG = 0.5  # least cosine of a change and of a product


class Adapter(NamedTuple):
    """Matrices that nothing trains, by id, and products of those that are trained."""

    weights: dict[int, Tensor]
    products: list[Tensor]


@dataclass
class Asked:
    """Rows that were seen after this step, and what was said of them."""

    adapter: Adapter
    answers: list[Tensor] = field(default_factory=list)


class Merging:
    """Passes in eval mode without gradients, with no step between them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._steps = 0
        self._asked: dict[int, Asked] = {}
        self._now: Asked | None = None  # whose pass is being made
        self._random = torch.zeros(0)

    def begins(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        """A pass in eval mode without gradients begins."""
        if self._steps != self.run.steps:
            self._steps, self._asked = self.run.steps, {}
        tensors = [each for each in tensors_in(given) if is_readable(each)]
        if not tensors or sum(each.numel() for each in tensors) > MOST:
            return
        digest = hash(tuple((tuple(each.shape), each.detach().cpu().double().numpy().tobytes()) for each in tensors))
        if digest not in self._asked and len(self._asked) < PASSES:
            adapter = _adapter(module, held(self.run, least=1))
            if adapter is not None:
                self._asked[digest] = Asked(adapter)
        self._now = self._asked.get(digest)
        if self._now is not None:
            self._random = torch.get_rng_state()

    def ends(self, passes: Passes, module: nn.Module, result: Any) -> None:
        """It has ended; what draws random numbers says something else each time."""
        asked, self._now = self._now, None
        answer = next((each for each in tensors_in(result) if each.is_floating_point() and each.numel() > 1), None)
        if asked is None or answer is None or answer.numel() > MOST:
            return
        if not torch.equal(self._random, torch.get_rng_state()):
            return
        now, fit = answer.detach().double(), [each for each in asked.answers if each.shape == answer.shape]
        if fit and _is_merged(module, asked.adapter):
            place, half = passes.chain[0] if passes.chain else None, is_half(module, answer)
            nearest = min(apart(each, now) for each in fit)
            self.run.merges.append(Merge(type(module).__name__, place, nearest, half))
        elif len(asked.answers) < ANSWERS:
            asked.answers.append(now.clone())


def _adapter(module: nn.Module, trained: set[int]) -> Adapter | None:
    """That of a model, if it has one."""
    matrices = [p for p in module.parameters() if p.dim() == 2 and p.is_floating_point() and is_readable(p)]
    factors = [p for p in matrices if id(p) in trained]
    products = [
        (shape, each)
        for one, other in pairwise(factors)
        for shape, each in (*_product(one, other), *_product(other, one))
    ]
    shapes = {shape for shape, _ in products} | {shape[::-1] for shape, _ in products}
    weights = [p for p in matrices if id(p) not in trained and tuple(p.shape) in shapes][:MATRICES]
    if not weights:
        return None
    fit = {tuple(p.shape) for p in weights} | {tuple(p.shape)[::-1] for p in weights}
    return Adapter({id(p): _corner(p) for p in weights}, [each for shape, each in products if shape in fit])


def _product(one: Tensor, other: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
    """The corner of a product of two matrices, if they fit and the product has a lower rank than its size."""
    if one.shape[1] != other.shape[0] or one.shape[1] >= min(len(one), other.shape[1]):
        return []
    left, right = one.detach()[:CORNER].double(), other.detach()[:, :CORNER].double()
    return [((len(one), other.shape[1]), left @ right)]


def _corner(weight: Tensor) -> Tensor:
    return weight.detach()[:CORNER, :CORNER].double().clone()


def _is_merged(module: nn.Module, adapter: Adapter) -> bool:
    """Whether a matrix has changed by a multiple of a product; in another module the one that is nearest."""
    known = {id(p): p for p in module.parameters() if p.dim() == 2 and p.is_floating_point() and is_readable(p)}
    for key, before in adapter.weights.items():
        found = [known[key]] if key in known else list(known.values())
        changes = [_corner(p) - before for p in found if p[:CORNER, :CORNER].shape == before.shape]
        change = min(changes, key=lambda each: float(each.norm()), default=None)
        if change is not None and any(
            _are_along(change, each) or _are_along(change, each.T) for each in adapter.products
        ):
            return True
    return False


def _are_along(change: Tensor, product: Tensor) -> bool:
    if change.shape != product.shape:
        return False
    size = float(change.norm()) * float(product.norm())
    return size > 0 and abs(float((change * product).sum())) > ALONG * size
