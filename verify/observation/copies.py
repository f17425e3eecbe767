"""Copies of weights that follow what learns: averages, target networks, key encoders."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.observation.runs import Run
from andon.verify.observation.step_trace import StepTrace

FEWEST = 16  # entries with which a tensor is a copy, or between two others, by no chance
STRAIGHT = 0.999  # cosine from which on a tensor moves along a line
DEPTH = 3  # of attributes within attributes in which a run keeps a copy


class Copy(NamedTuple):
    """A tensor beside what learns, before a step and after it."""

    name: str
    before: Tensor
    after: Tensor


def follows(before: Tensor, after: Tensor, learning: Iterable[Tensor]) -> bool:
    """Whether a tensor ends between where it was and where one of these is, entry by entry."""
    return any(_is_between(before, after, each) for each in learning if each.shape == before.shape)


def places_of(step: StepTrace, names: Iterable[str]) -> list[Tensor]:
    """Where these parameters were before a step and are after it."""
    return [state[name] for name in names for state in (step.before, step.after)]


def away(before: Tensor, after: Tensor, learning: Tensor) -> float:
    """How far a tensor went towards another, as a share of the distance; 0 where it moved along no such line."""
    path, whole = (after.double() - before.double()).flatten(), (learning.double() - before.double()).flatten()
    product, size = float(path @ whole), float(path.norm() * whole.norm())
    return product / float(whole @ whole) if size and abs(product) > STRAIGHT * size else 0.0


def shares_of_the_way(copied: Copy, step: StepTrace, learning: Iterable[str]) -> list[float]:
    """How far a copy went towards each parameter of its shape, of those along the line to which it moved."""
    others = [step.after[name] for name in learning if step.after[name].shape == copied.before.shape]
    return [share for other in others if (share := away(copied.before, copied.after, other))]


def is_far(copied: Copy, step: StepTrace, learning: Iterable[str]) -> bool:
    """Whether a copy ends further from what it is a copy of than it was, by more than the step itself."""
    before, after = copied.before, copied.after
    pairs = [(step.before[name], step.after[name]) for name in learning if step.after[name].shape == before.shape]
    old, new = min(pairs, key=lambda pair: float((before - pair[0]).norm()))
    return float((after - new).norm()) > 2 * (float((before - new).norm()) + float((new - old).norm()))


def begins_equal(tensor: Tensor, model: nn.Module, learning: Iterable[str]) -> bool:
    """Whether a tensor is, bit by bit, one of these parameters, and no constant that is so by chance."""
    others = [model.get_parameter(name) for name in learning]
    same = any(tensor.shape == other.shape and torch.equal(tensor, other) for other in others)
    return same and bool((tensor != tensor.flatten()[0]).any())


def kept_in(run: Run) -> dict[str, Tensor]:
    """What may be a copy of weights: frozen parameters and buffers of the model, and what a loop keeps."""
    frozen = {name: p for name, p in run.model.named_parameters() if not p.requires_grad}
    own = {name: tensor for name, tensor in (frozen | dict(run.model.named_buffers())).items() if _is_large(tensor)}
    return own | ({} if run.loop is None else {f"loop.{n}": t for n, t in kept_beside(run.loop, run.model)})


def kept_beside(owner: Any, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The floating tensors that a run keeps in its attributes, beside those of its model and of its optimizer."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    seen: set[int] = {id(model)}
    waiting: list[tuple[str, Any, int]] = [("", owner, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Tensor):
            if id(value) not in own and _is_large(value):
                yield name, value
            continue
        if id(value) in seen or depth > DEPTH or isinstance(value, torch.optim.Optimizer | type):
            continue
        seen.add(id(value))
        waiting += [(f"{name}.{key}".lstrip("."), part, depth + 1) for key, part in _parts(value)]


def _is_large(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() >= FEWEST


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        yield from value.named_parameters()
        yield from value.named_buffers()
    elif isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(number), part) for number, part in enumerate(value))
    elif hasattr(value, "__dict__") and not callable(value):
        yield from vars(value).items()


def _is_between(before: Tensor, after: Tensor, other: Tensor) -> bool:
    one, two, found = before.double(), other.double(), after.double()
    room = 4 * torch.finfo(after.dtype).eps * torch.maximum(one.abs(), two.abs()) + 1e-12
    least, most = torch.minimum(one, two) - room, torch.maximum(one, two) + room
    return bool(((found >= least) & (found <= most)).all())
