"""A line of the table of questions, and how a captured micro-batch is asked again."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from andon.door import places
from andon.door.places import Place
from andon.verify.access.calls import seeded
from andon.verify.access.roles import as_whole
from andon.verify.capturing.micro_batch import Captured

CLOSE = 1e-4  # of a number in float32, computed in another order


class Question(NamedTuple):
    """A line of the table."""

    name: str  # run.what
    function: Callable[[Captured], None]


class Outside:
    """The script's line of a call that a replay makes within a module; none for those that it makes itself."""

    def __init__(self) -> None:
        self._line = places.here()

    def here(self) -> Place | None:
        """Of this call."""
        found = places.here()
        return None if found == self._line else found


def followed(captured: Captured, mode: TorchFunctionMode, *, train: bool = False) -> tuple[list[nn.Module], Tensor]:
    """Copies of the modules, and the loss that they make again, from one seed, under a mode that sees each call.

    In eval mode, or, for what training does, as the modules were.
    """
    modules, batch = (
        [deepcopy(each) if train else deepcopy(each).eval() for each in captured.before],
        parts_of(captured),
    )
    with seeded(), torch.set_grad_enabled(train), mode:
        return modules, captured.values(batch, modules)[id(captured.loss)]


def parts_of(captured: Captured) -> dict[str, Tensor]:
    """The parts of the batch, copied."""
    return {key: value.detach().clone() for key, value in captured.parts.items()}


def again(captured: Captured, changes: dict[str, Tensor] | None = None) -> dict[int, Tensor]:
    """All that the script computed, in eval mode and from one seed, of the same batch or of one with other parts."""
    modules = [deepcopy(each).eval() for each in captured.before]
    changed = {key: as_whole(each) for key, each in (changes or {}).items()}
    with seeded():
        return captured.values(parts_of(captured) | changed, modules)


def loss_again(captured: Captured, changes: dict[str, Tensor] | None = None) -> float:
    """The loss of it."""
    with torch.no_grad():
        return float(again(captured, changes)[id(captured.loss)])


def loss_in_double(captured: Captured, changes: dict[str, Tensor]) -> float:
    """The same in double precision, as far as the script's own casts leave it so."""
    modules = [deepcopy(each).eval().double() for each in captured.before]
    parts = parts_of(captured) | {key: as_whole(each) for key, each in changes.items()}
    doubled = {key: each.double() if each.is_floating_point() else each for key, each in parts.items()}
    with torch.no_grad(), seeded():
        return float(captured.values(doubled, modules)[id(captured.loss)])


def differ(first: float, second: float) -> bool:
    """Whether two losses are more than rounding apart, or one of them alone is no number."""
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) != math.isnan(second)
    return abs(first - second) > CLOSE * max(abs(first), abs(second), 1e-6)
