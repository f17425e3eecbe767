"""A loss function that is called twice with the same numbers in one micro-batch."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry, needed
from andon.verify.errors import NotApplicable, Unusual

CLOSE = 1e-4  # of a gradient in float32
CALLED = ("cross_entropy", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits")


def check_twice(captured: Captured) -> None:
    """Two calls of one loss function in a micro-batch's loss are two statements: of other numbers, or other settings.

    Asked where the loss is made of several calls of one of torch's loss functions on tensors of the same shapes, each
    learned from, and of the same passes of the model. Found where each of them has a twin that is given bit for bit the
    same, and the loss's gradient for the two is the same: one number is added twice.

    Silent because the loss falls as ever: one of two directions, views or heads is never learned.

    Look at the arguments of the second call: a transpose, an index or a name that was to be another.

    Yellow alone.
    """
    groups = [group for group in _groups(captured) if len(group) > 1]
    if not groups:
        raise NotApplicable("several calls of one of torch's loss functions on tensors of the same shapes, in one loss")
    for group in groups:
        if all(any(_are_twins(captured, one, other) for other in group if other is not one) for one in group):
            shapes = " and ".join(str(tuple(each.shape)) for each in group[0].given())
            raise Unusual(
                f"{len(group)} calls of {group[0].name} in one micro-batch's loss are given the same numbers twice "
                f"({shapes}), and the loss takes them alike: the second says nothing that the first does not"
            )


def _groups(captured: Captured) -> Iterable[list[Entry]]:
    """Calls of loss functions by name, shapes and the passes that they come from."""
    found: dict[Any, list[Entry]] = defaultdict(list)
    for entry in captured.entries:
        if entry.module is None and _is_loss(entry) and any(each.requires_grad for each in entry.given()):
            shapes = tuple(each.shape for each in entry.given())
            found[entry.name, shapes, _passes(captured, entry)].append(entry)
    return found.values()


def _is_loss(entry: Entry) -> bool:
    named = entry.name in CALLED or entry.name.endswith("_loss")
    return named and isinstance(entry.result, Tensor) and entry.result.numel() > 0


def _passes(captured: Captured, entry: Entry) -> frozenset[int]:
    """The passes of modules that a call's result is made of."""
    return frozenset(id(each) for each in needed(captured.entries, entry.result) if each.module is not None)


def _are_twins(captured: Captured, one: Entry, other: Entry) -> bool:
    """Whether both are given the same, and the loss has the same gradient, not zero, for what each returns."""
    if not (_same(one.args, other.args) and _same(one.kwargs, other.kwargs)):
        return False
    results = [one.result, other.result]
    a, b = torch.autograd.grad(captured.loss, results, retain_graph=True, allow_unused=True)
    return a is not None and b is not None and bool(a.any()) and bool((a - b).norm() <= CLOSE * a.norm())


def _same(one: Any, other: Any) -> bool:
    """Whether two nests of arguments are alike, tensors bit for bit."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


QUESTIONS = (Question("run.twice", check_twice),)
