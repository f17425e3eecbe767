"""A loss that is one number, whatever the weights are."""

from collections.abc import Mapping
from copy import deepcopy

import torch

from andon.door.differences import COMPARES, DIFFERENCES
from andon.door.questions.question import Question, again, parts_of
from andon.verify.access.calls import seeded
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

MOVED = 0.1  # of a weight's size
ROUNDING, FINE = 1e-6, 1e-12  # of the loss, as the script computes it, and in float64
SEEDS = (1, 2)
RATIOS = ("exp", "exp_", "expm1", "div", "__truediv__", "__rtruediv__", "true_divide", "div_", "sub_")


def check_constant(captured: Captured) -> None:
    """A loss changes with the weights that it is to train.

    Asked of the captured batch, in eval mode, with all weights moved by a tenth, twice, also in float64, where targets
    that are far larger than what the model returns hide nothing. Not where exponentials or quotients are taken outside
    of the model: the ratio of a policy to itself is 1, and has a gradient that is meant. A loss of zero is asked for a
    comparison of two equal things that the model returned: margins that are kept, and rewards that are all alike, make
    it zero as well, and the value of a surrogate says nothing.

    Yellow where it cannot be computed in float64.

    Silent because there is a gradient, of one of two terms that are always the same: it never comes to rest.

    Look at what is compared with the model: a reference that is the model itself, and no copy of it.
    """
    if not captured.loss.requires_grad or _takes_ratios(captured):
        raise NotApplicable("a loss without quotients and exponentials of what the model returns")
    moved = [_moved(captured, seed) for seed in SEEDS]
    with torch.no_grad():
        due = float(again(captured)[id(captured.loss)])
    if not _stand([due, *(float(each[id(captured.loss)]) for each in moved)], ROUNDING):
        return
    said = f"the loss is {due:.6g} in eval mode, and with all weights moved by a tenth, twice, it still is: what the "
    said += "model returns cancels in it"
    if due:
        _judge_fine(_in_float64(captured), said)
    elif not _has_gradient(captured) and all(_compares_itself(captured, each) for each in moved):
        raise CheckFailed(said)


def check_cancels(captured: Captured) -> None:
    """A difference of two things that are both learned from is not zero everywhere, whatever the weights are.

    Asked of differences outside of the model, both of whose sides pass gradients to it, and that are zero in the
    script: in eval mode, with all weights moved by a tenth, twice, by which one of the sides at least changes.

    Yellow where the batch has one row: that less the mean of all rows is zero.

    Silent because the loss has other terms; this one has no gradient.

    Look at which of two log probabilities is the old policy's, and which the new one's.
    """
    asked = [entry for entry in captured.entries if entry.name in DIFFERENCES and _learns_twice(captured, entry)]
    if not asked:
        raise NotApplicable("a difference of two things that the model returned, both learned from")
    zero = [entry for entry in asked if not entry.result.any()]
    moved = [_moved(captured, seed) for seed in SEEDS] if zero else []
    for entry in zero:
        if _stays_zero(entry, moved):
            raise (Unusual if entry.result.shape[:1] == (1,) else CheckFailed)(
                f"a difference {tuple(entry.result.shape)} of two things that the model returned, both of which pass "
                "gradients on, is 0 everywhere, with other weights, too: its gradient is none"
            )


def _takes_ratios(captured: Captured) -> bool:
    """Whether quotients or exponentials of what the model returned are taken outside of it."""
    return any(entry.name in RATIOS and _weighs(captured, entry) for entry in captured.entries)


def _judge_fine(losses: list[float], said: str) -> None:
    """Raises where losses of float64 are one number, or there are none."""
    if not losses:
        raise Unusual(said)
    if _stand(losses, FINE):
        raise CheckFailed(said)


def _stays_zero(entry: Entry, moved: list[dict[int, torch.Tensor]]) -> bool:
    """Whether a difference is zero with each of some weights, though one of its sides changes with them."""
    one, other = moved
    changes = any(not torch.equal(one.get(id(side), side), other.get(id(side), side)) for side in entry.given())
    return changes and not any(bool(each[id(entry.result)].any()) for each in moved)


def _stand(losses: list[float], rounding: float) -> bool:
    return all(abs(each - losses[0]) <= rounding * abs(losses[0]) for each in losses[1:])


def _in_float64(captured: Captured) -> list[float]:
    """The loss with weights that were moved by each seed, in float64; nothing where the script's code refuses it."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for what the script draws
    try:
        losses = [_moved(captured, seed, torch.float64)[id(captured.loss)] for seed in SEEDS]
    except (RuntimeError, TypeError, ValueError):  # our own change of dtype provoked it
        return []
    finally:
        torch.set_default_dtype(usual)
    return [float(each) for each in losses] if all(each.dtype == torch.float64 for each in losses) else []


def _learns_twice(captured: Captured, entry: Entry) -> bool:
    sides = [each for each in entry.given() if each.requires_grad and entry.module is None]
    is_there = isinstance(entry.result, torch.Tensor) and entry.result.numel() > 0
    return len(sides) == 2 and is_there and _weighs(captured, entry)


def _has_gradient(captured: Captured) -> bool:
    """Whether the loss has one, other than zero, as the script had it."""
    weights = [p for module in captured.modules for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(captured.loss, weights, retain_graph=True, allow_unused=True)
    return any(each is not None and bool(each.any()) for each in found)


def _compares_itself(captured: Captured, values: Mapping[int, torch.Tensor]) -> bool:
    """Whether some comparison is of what is learned and of a constant that is the same, number by number."""
    for entry in captured.entries:
        sides = [(each.requires_grad, values.get(id(each), each)) for each in entry.given()[:2]]
        if entry.name in COMPARES and len(sides) == 2 and sides[0][0] != sides[1][0] and _weighs(captured, entry):
            one, other = (each for _, each in sides)
            if one.numel() > 1 and torch.equal(one, other):
                return True
    return False


def _weighs(captured: Captured, entry: Entry) -> bool:
    """Whether a call is given what a module made."""
    made: set[int] = set()
    for each in captured.entries:
        given = any(id(tensor) in made for tensor in each.given())
        if each is entry:
            return given
        if each.module is not None or given:
            made |= {id(tensor) for tensor in each.made()}
    return False


def _moved(captured: Captured, seed: int, dtype: torch.dtype | None = None) -> dict[int, torch.Tensor]:
    """All that the script computed, again, of weights that were moved at random; in another dtype where it is said."""
    modules = [deepcopy(each).eval() for each in captured.before]
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad(), seeded():
        for module in modules:
            for p in module.parameters():
                rms = p.square().mean().sqrt() if p.is_floating_point() else 0
                p.add_(MOVED * (rms + MOVED) * torch.randn(p.shape, generator=noise).to(p))
        batch = parts_of(captured)
        if dtype is not None:
            modules = [each.to(dtype) for each in modules]
            batch = {key: each.to(dtype) if each.is_floating_point() else each for key, each in batch.items()}
        return captured.values(batch, modules)


QUESTIONS = (Question("run.constant", check_constant), Question("run.cancels", check_cancels))
