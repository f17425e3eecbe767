"""Adapters that are merged into the weights beside them, and what the model says before and after it.

An adapter: two matrices that an optimizer trains, whose product is as large as a matrix that none trains any more.
It is merged where the latter changes between two passes by a multiple of that product. Of matrices a corner is kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.door.closeness import apart, is_half
from andon.door.holding import held
from andon.door.readable import is_readable
from andon.door.records import Merge, Passes, Run
from andon.verify.access.batches import tensors_in

CORNER = 64  # rows and columns
MATRICES = 16  # of a model that are looked at
MOST = 1_000_000  # numbers of what a pass is given, and of what it returns
PASSES, ANSWERS = 8, 4  # after one step, and of the same rows
ALONG = 0.5  # least cosine of a change and of a product

Product = tuple[tuple[int, int], Tensor]  # its shape, and a corner of it


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
        digest = _digest([each for each in tensors_in(given) if is_readable(each)])
        if digest is None:
            return
        self._now = self._asked.get(digest) or self._first(module, digest)
        if self._now is not None:
            self._random = torch.get_rng_state()

    def _first(self, module: nn.Module, digest: int) -> Asked | None:
        """Rows that are seen for the first time; None where there are others enough, or no adapter."""
        adapter = _adapter(module, held(self.run, least=1)) if len(self._asked) < PASSES else None
        if adapter is not None:
            self._asked[digest] = Asked(adapter)
        return self._asked.get(digest)

    def ends(self, passes: Passes, module: nn.Module, result: Any) -> None:
        """It has ended; what draws random numbers says something else each time."""
        asked, self._now = self._now, None
        answer = _answer(result)
        if asked is None or answer is None or not torch.equal(self._random, torch.get_rng_state()):
            return
        now, before = answer.detach().double(), [each for each in asked.answers if each.shape == answer.shape]
        if before and _is_merged(module, asked.adapter):
            nearest, place = min(apart(each, now) for each in before), next(iter(passes.chain), None)
            self.run.merges.append(Merge(type(module).__name__, place, nearest, is_half(module, answer)))
        elif len(asked.answers) < ANSWERS:
            asked.answers.append(now.clone())


def _digest(tensors: list[Tensor]) -> int | None:
    """Of what a pass is given, unless that is nothing or too much."""
    if not tensors or sum(each.numel() for each in tensors) > MOST:
        return None
    return hash(tuple((tuple(each.shape), each.detach().cpu().double().numpy().tobytes()) for each in tensors))


def _answer(result: Any) -> Tensor | None:
    """The first numbers that a pass returns, unless they are too many."""
    answer = next((each for each in tensors_in(result) if each.is_floating_point() and each.numel() > 1), None)
    return None if answer is None or answer.numel() > MOST else answer


def _adapter(module: nn.Module, trained: set[int]) -> Adapter | None:
    """That of a model, if it has one."""
    matrices = _matrices(module)
    products = _products([p for p in matrices if p.requires_grad and id(p) in trained])
    shapes = _either_way(shape for shape, _ in products)
    weights = _untrained(matrices, trained, shapes)
    if not weights:
        return None
    fit = _either_way(p.shape for p in weights)
    return Adapter({id(p): _corner(p) for p in weights}, [each for shape, each in products if shape in fit])


def _untrained(matrices: list[Tensor], trained: set[int], shapes: set[tuple[int, ...]]) -> list[Tensor]:
    """The first that have such a shape."""
    return [p for p in matrices if p.shape in shapes and not (p.requires_grad and id(p) in trained)][:MATRICES]


def _matrices(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.dim() == 2 and p.is_floating_point() and is_readable(p)]


def _products(factors: list[Tensor]) -> list[Product]:
    """Of neighbors, in both orders."""
    orders = [order for one, other in pairwise(factors) for order in ((one, other), (other, one))]
    return [each for one, other in orders for each in _product(one, other)]


def _either_way(shapes: Iterable[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Of matrices and of their transposes."""
    return {way for shape in shapes for way in (shape, shape[::-1])}


def _product(one: Tensor, other: Tensor) -> list[Product]:
    """The corner of a product of two matrices, if they fit and the product has a lower rank than its size."""
    if one.shape[1] != other.shape[0] or one.shape[1] >= min(len(one), other.shape[1]):
        return []
    left, right = one.detach()[:CORNER].double(), other.detach()[:, :CORNER].double()
    return [((len(one), other.shape[1]), left @ right)]


def _corner(weight: Tensor) -> Tensor:
    return weight.detach()[:CORNER, :CORNER].double().clone()


def _is_merged(module: nn.Module, adapter: Adapter) -> bool:
    """Whether a matrix has changed by a multiple of a product."""
    known = {id(p): p for p in _matrices(module)}
    changes = (_change(known, key, before) for key, before in adapter.weights.items())
    return any(change is not None and _is_along(change, adapter.products) for change in changes)


def _change(known: dict[int, Tensor], key: int, before: Tensor) -> Tensor | None:
    """Of a matrix; in a module that does not have it, that of the nearest."""
    found = [known[key]] if key in known else known.values()
    changes = [_corner(p) - before for p in found if p[:CORNER, :CORNER].shape == before.shape]
    return min(changes, key=lambda each: float(each.norm()), default=None)


def _is_along(change: Tensor, products: list[Tensor]) -> bool:
    return any(_are_along(change, way) for each in products for way in (each, each.T))


def _are_along(change: Tensor, product: Tensor) -> bool:
    if change.shape != product.shape:
        return False
    size = float(change.norm()) * float(product.norm())
    return size > 0 and abs(float((change * product).sum())) > ALONG * size
