"""A line of the table of questions, and how a captured micro-batch is asked again."""

from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor

from andon.verify.access.calls import seeded
from andon.verify.capturing.micro_batch import Captured

CLOSE = 1e-4  # of a number in float32, computed in another order


class Question(NamedTuple):
    """A line of the table."""

    name: str  # run.what
    function: Callable[[Captured], None]


def again(captured: Captured, changes: dict[str, Tensor] | None = None) -> dict[int, Tensor]:
    """All that the script computed, in eval mode and from one seed, of the same batch or of one with other parts."""
    modules = [deepcopy(each).eval() for each in captured.before]
    batch = {key: value.detach().clone() for key, value in captured.parts.items()} | (changes or {})
    with seeded():
        return captured.values(batch, modules)


def loss_again(captured: Captured, changes: dict[str, Tensor] | None = None) -> float:
    """The loss of it."""
    with torch.no_grad():
        return float(again(captured, changes)[id(captured.loss)])


def differ(first: float, second: float) -> bool:
    """Whether two losses are more than rounding apart."""
    return abs(first - second) > CLOSE * max(abs(first), abs(second), 1e-6)
