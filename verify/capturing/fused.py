"""A loss that is fused with its head: one function makes logits and their cross-entropy, and shows no logits.

Where its values and gradients are shown to be those of plain torch calls, a replay makes these calls in its place.
"""

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from andon.verify.capturing.torch_calls import Entry

IGNORED = -100
EXACT = 1e-4  # of a value
ALIKE = {torch.bfloat16: 2e-2, torch.float16: 2e-3}  # of gradients that are rounded so


class Fused(NamedTuple):
    """What a function is given: hidden states (..., D), the head's weight (V, D), and a target (...) for each."""

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    counted: Tensor | None = None  # (...), True where a target counts; None: wherever it is not negative


def with_plain_calls(entries: list[Entry]) -> list[Entry]:
    """The calls with torch's own in the place of a function that makes the same loss and the same gradients."""
    makers = {id(made): entry for entry in entries for made in entry.made()}
    return [plain for entry in entries for plain in (_plain(entry, makers) if entry.own else (entry,))]


def total(logits: Tensor, labels: Tensor, counted: Tensor | None = None) -> Tensor:
    """The summed cross-entropy of logits (..., V), a scalar."""
    return _entropy(logits, labels, counted, "sum")


def mean(logits: Tensor, labels: Tensor, counted: Tensor | None = None) -> Tensor:
    """That of each target that counts, in the mean."""
    return _entropy(logits, labels, counted, "mean")


def _entropy(logits: Tensor, labels: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    left_out = labels < 0 if counted is None else ~counted
    targets = labels.masked_fill(left_out, IGNORED).flatten()
    return functional.cross_entropy(logits.flatten(0, -2), targets, ignore_index=IGNORED, reduction=reduction)


def _plain(entry: Entry, makers: dict[int, Entry]) -> list[Entry]:
    if not isinstance(entry.result, Tensor) or entry.result.numel() != 1:
        return [entry]
    for given in _readings(entry.args):
        factor = _shown_factor(entry, given)
        if factor:
            return _calls(entry, _unselected(given, makers), factor, int((given.labels >= 0).sum()))
    return [entry]


def _calls(entry: Entry, given: Fused, factor: float, count: int) -> list[Entry]:
    """The head's call, and that of a mean over so many targets, or of their sum and what multiplies it."""
    logits, value = functional.linear(given.hidden, given.weight), entry.result / factor
    head = Entry(functional.linear, (given.hidden, given.weight), {}, logits, autocast=entry.autocast)
    targets = (logits, given.labels, given.counted)
    if abs(factor * count - 1) <= EXACT:
        return [head, Entry(mean, targets, {}, entry.result, autocast=entry.autocast)]
    return [
        head,
        Entry(total, targets, {}, value, autocast=entry.autocast),
        Entry(torch.mul, (value, factor), {}, entry.result),
    ]


def _linear_total(hidden: Tensor, weight: Tensor, labels: Tensor, _: None) -> Tensor:
    return total(functional.linear(hidden, weight), labels)


def _unselected(given: Fused, makers: dict[int, Entry]) -> Fused:
    """With all hidden states and targets, where the function was given those that one mask of theirs selects."""
    (hidden, mask), (labels, other) = (_selection(makers.get(id(each))) for each in (given.hidden, given.labels))
    if hidden is None or labels is None or mask is None or mask is not other or mask.shape != labels.shape:
        return given
    return given._replace(hidden=hidden, labels=labels, counted=mask)


def _selection(call: Entry | None) -> tuple[Tensor | None, Tensor | None]:
    """What a mask selects from, and the mask."""
    if call is None or call.name != "__getitem__":
        return None, None
    source, mask = call.args
    return (source, mask) if isinstance(mask, Tensor) and mask.dtype == torch.bool else (None, None)


def _readings(args: tuple[Any, ...]) -> Iterator[Fused]:
    """All that the arguments' shapes allow."""
    tensors = [each for each in args if isinstance(each, Tensor) and each.numel()]
    return filter(_fits, (Fused(*three) for three in permutations(tensors, 3)))


def _fits(given: Fused) -> bool:
    hidden, weight, labels, _ = given
    kinds = hidden.is_floating_point() and weight.is_floating_point() and labels.dtype == torch.int64
    shapes = weight.dim() == 2 and hidden.shape[-1:] == weight.shape[1:] and hidden.shape[:-1] == labels.shape
    return kinds and shapes and labels.dim() > 0 and int(labels.max()) < len(weight)


def _shown_factor(entry: Entry, given: Fused) -> float:
    """What the sum is multiplied by, for three hidden states and their gradients alike; 0 where it is another loss."""
    hidden, factor = given.hidden.detach(), 0.0
    near = max(ALIKE.get(each, EXACT) for each in (entry.autocast, hidden.dtype))
    for moved in (hidden, 0.5 * hidden, hidden.flip(-1)):
        new = {id(given.hidden): moved.clone().requires_grad_()}
        new[id(given.weight)] = given.weight.detach().clone().requires_grad_()
        try:
            own, gradients = _taken(entry.function, entry.args, new, entry.autocast)
            due, expected = _taken(_linear_total, given, new, entry.autocast)
        except (RuntimeError, TypeError, ValueError):  # it takes no others: nothing is shown
            return 0.0
        factor = factor or own / due
        pairs = zip(gradients, expected, strict=True)
        if abs(own - factor * due) > EXACT * abs(own) or not all(_alike(a, factor * b, near) for a, b in pairs):
            return 0.0
    return factor


def _alike(own: Tensor, due: Tensor, near: float) -> bool:
    return bool((own - due).norm() <= near * due.norm())


def _taken(
    function: Callable[..., Tensor], args: tuple[Any, ...], new: dict[int, Tensor], autocast: torch.dtype | None
) -> tuple[float, list[Tensor]]:
    """A value of these arguments with new ones among them, and its gradients for those."""
    with torch.enable_grad(), torch.autocast("cpu", autocast, enabled=autocast is not None):
        value = function(*(new.get(id(each), each) for each in args))
        gradients = torch.autograd.grad(value, list(new.values()))
    return float(value.detach()), [each.float() for each in gradients]
