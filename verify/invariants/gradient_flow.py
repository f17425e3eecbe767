"""What an update is made of: each parameter's gradient arrives, and it is this step's alone."""

import math

import torch
from torch import Tensor

from andon.verify.errors import listed
from andon.verify.invariants.watched import PATIENCE, Watched
from andon.verify.run.report import RED, YELLOW

GROWING = 3  # steps in which the last gradient was still there
PARALLEL = 0.99  # gradients so alike that one cannot be told from the other


class GradientsReach:
    """Within the first steps each trainable parameter has had a gradient.

    Yellow where gradients of others of the same name, but for its numbers, come and go: experts, chosen by rows.
    """

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._waiting = {name for name, p in watched.parameters.items() if p.requires_grad}
        self._came, self._missed = set[str](), set[str]()

    def before(self) -> None:
        """Strike out those that have one."""
        if self.watched.steps > PATIENCE:
            return
        for name, p in self.watched.parameters.items():
            if p.requires_grad:
                (self._missed if p.grad is None else self._came).add(name)
        self._waiting = self._waiting & self.watched.parameters.keys() - self._came
        if self._waiting and self.watched.steps == PATIENCE:
            self.watched.found(
                "gradients",
                f"after {self.watched.steps} steps no gradient has reached {listed(sorted(self._waiting))}",
                "Look for detach, no_grad and for layers that the loss does not use.",
                YELLOW if self._are_chosen() else RED,
            )

    def _are_chosen(self) -> bool:
        """Whether the like of all that wait has a gradient in some steps and none in others."""
        return set(map(_without_numbers, self._waiting)) <= set(map(_without_numbers, self._came & self._missed))

    def after(self) -> None:
        """Nothing."""


class FreshGradients:
    """An update's gradient holds nothing of the step before, seen on one matrix: the probe."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        matrices = [(name, p) for name, p in watched.parameters.items() if p.requires_grad and p.dim() > 1]
        self.probe = matrices[-1] if matrices else None
        self._arrived: Tensor | None = None  # the sum of its gradients since the last step
        self._previous: Tensor | None = None  # its gradient at the last step
        self._grown = 0

    def gradient_arrives(self, gradient: Tensor) -> None:
        """Sum what backward adds to the probe's gradient."""
        assert self.probe
        if not self.watched.is_close:
            return
        sample = self.watched.sample(self.probe[0], gradient)
        self._arrived = sample if self._arrived is None else self._arrived + sample

    def before(self) -> None:
        """Whether the last step's gradient is part of this one's: c times what arrived plus d times what was."""
        if self.probe is None or self.probe[1].grad is None:
            return
        if not self.watched.is_close:
            self._arrived, self._previous, self._grown = None, None, 0
            return
        current = self.watched.sample(self.probe[0], self.probe[1].grad)
        arrived, previous = self._arrived, self._previous
        self._arrived, self._previous = None, current
        if arrived is None or previous is None:
            return
        parts = _parts(arrived, previous, current)
        if parts is None:
            return
        c, d, left = parts
        self._grown = self._grown + 1 if left < (1 - PARALLEL) ** 2 and 0 < c / 2 < d < 2 * c else 0
        if self._grown >= GROWING:
            self.watched.found(
                "zero_grad",
                f"in {self._grown} steps in a row the gradient still held that of the step before, {d / c:.2g} times",
                "Call optimizer.zero_grad() once each step, before the first backward.",
            )

    def after(self) -> None:
        """Nothing."""


def _without_numbers(name: str) -> tuple[str, ...]:
    return tuple("" if part.isdigit() else part for part in name.split("."))


def _parts(arrived: Tensor, previous: Tensor, current: Tensor) -> tuple[float, float, float] | None:
    """What c times `arrived` plus d times `previous` comes closest to `current`, and the share of its square left over.

    None where the two cannot be told apart, or where one is not finite.
    """
    rows = torch.stack((arrived, previous, current)).double()
    (aa, ap, ac), (_, pp, pc), (_, _, cc) = (rows @ rows.t()).tolist()
    if not aa * pp * cc or not math.isfinite(aa + pp + cc) or abs(ap) > PARALLEL * math.sqrt(aa * pp):
        return None
    c, d = (ac * pp - pc * ap) / (aa * pp - ap * ap), (pc * aa - ac * ap) / (aa * pp - ap * ap)
    return c, d, (cc - c * ac - d * pc) / cc
