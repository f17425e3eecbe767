"""Copies of weights that follow what learns: averages, target networks, key encoders."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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


def kept_beside(owner: Any, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The floating tensors that a run keeps in its attributes, beside those of its model and of its optimizer."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    seen: set[int] = {id(model)}
    waiting: list[tuple[str, Any, int]] = [("", owner, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        if isinstance(value, Tensor):
            if id(value) not in own and value.is_floating_point() and value.numel() >= FEWEST:
                yield name, value
            continue
        if id(value) in seen or depth > DEPTH or isinstance(value, torch.optim.Optimizer | type):
            continue
        seen.add(id(value))
        waiting += [(f"{name}.{key}".lstrip("."), part, depth + 1) for key, part in _parts(value)]


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
