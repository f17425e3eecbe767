"""A scalar function of named tensors at one point: autograd's gradient there, and differences along any direction.

Where the two disagree, they are compared once more in pieces of the smallest step that resolves the disagreement: a
kink or a routing border, within the larger step or at the very point, is in few of them, and a wrong backward in all.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import pairwise
from statistics import median, median_high
from typing import NamedTuple

import torch
from torch import Tensor

from andon.verify.access.calls import seeded
from andon.verify.errors import NotApplicable
from andon.verify.gradients.differences import Derivative, derivative, noise
from andon.verify.gradients.held import Stops
from andon.verify.observation.graph import coarsest
from andon.verify.observation.tolerances import rms

Direction = dict[str, Tensor]
RELATIVE_STEP = 0.05  # first step, as a share of each tensor's rms
SMALLER = (1.0, 1e-2, 1e-4)  # times the first step, where kinks or jumps lie within it
RISE = 0.05  # largest share of the value that a first step is to change it by
OWN_ROUNDING = 100.0  # autograd's own rounding, in units of the value's relative noise
THIRD = 1 / 3  # of the value, whose gradient is a third but for rounding
BACKWARD = 10.0  # the backward pass's own rounding, in units of what a third of it is off by
SINGLE = 1e-6  # what single precision within a backward pass explains; what is off by more is not rounding
RESOLVED = 64.0  # times the rounding of a value: the change that shows a disagreement in a small step
SMALLEST = 1e-9  # share of a tensor's rms: below, the step itself is rounded
STILL = 0.5  # of a disagreement: what of it must be there in most pieces of a small step
PIECES = 4  # on each side of the point


class Comparison(NamedTuple):
    """Autograd's derivative along a direction beside that of differences."""

    autograd: float
    differences: float
    size: float  # what a derivative along such a direction is like: errors are shares of it
    tolerance: float

    @property
    def error(self) -> float:
        """How far the two are apart; NaN where there is no number."""
        return self.differences - self.autograd

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the error."""
        return abs(self.error) <= self.tolerance


class DirectionalDerivatives:
    """Evaluates `function()` while the tensors that it reads are moved, and puts them back each time.

    The tensors are leaves that require gradients; one that gets none has gradient zero. Each evaluation draws the same
    random numbers, finds the same `state` (buffers that a forward pass moves), and holds what gradients stop at, where
    `stops` are given.
    """

    def __init__(
        self,
        function: Callable[[], Tensor],
        leaves: Mapping[str, Tensor],
        rtol: float,
        state: Iterable[Tensor] = (),
        stops: Stops | None = None,
    ) -> None:
        self.function, self.leaves, self.rtol = function, leaves, rtol
        self.state = [(tensor, tensor.detach().clone()) for tensor in state]
        self.stops = stops
        if stops is not None:
            with seeded(), stops.recording():
                function()
            self._restore()
        self.base = {name: _real(leaf.detach()).clone() for name, leaf in leaves.items()}
        self.eps = 0.0  # read off the first graph
        self.value, self.gradients = self._differentiate()
        self.backward = self._backward_rounding()
        self.scales = _scales(self.base)
        self.norms = {name: float(gradient.norm()) for name, gradient in self.gradients.items()}
        sizes = {name: norm * self.scales[name] for name, norm in self.norms.items()}
        middle = _middle(sizes.values())
        self.balanced = {name: scale * _share(sizes[name], middle) for name, scale in self.scales.items()}
        self.floor = max(1e-4 * middle, 1e-12 * abs(float(self.value)), 1e-300)
        self.entries = sum(leaf.numel() for leaf in leaves.values())
        self.evaluations = 0
        self._noises: dict[float, float] = {}

    def _backward_rounding(self) -> float:
        """How far a third of the gradient is off that of a third of the value, as a share of it.

        A kernel may sum in float32 whatever it is given. What is off by more is a fault, which counts as 0 here.
        """
        parts = self._differentiate(THIRD)[1]
        whole = math.hypot(*(float(gradient.norm()) for gradient in self.gradients.values()))
        off = math.hypot(*(float((parts[name] / THIRD - each).norm()) for name, each in self.gradients.items()))
        return off / whole if off < SINGLE * whole else 0.0

    def _holding(self) -> AbstractContextManager[object]:
        """Within it, what gradients stop at is what it was at the point."""
        return self.stops.replaying() if self.stops and self.stops.found else torch.enable_grad()

    def _differentiate(self, share: float = 1.0, *, holding: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        for leaf in self.leaves.values():
            leaf.grad = None
        with seeded(), self._holding() if holding else torch.enable_grad():
            value = self.function()
            self.eps = self.eps or coarsest(value)
            if value.requires_grad:
                (value * share).backward()
        self._restore()
        gradients = {
            name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.to_dense()
            for name, leaf in self.leaves.items()
        }
        return value.detach(), {name: _real(gradient).double() for name, gradient in gradients.items()}

    def along(self, direction: Direction) -> Callable[[float], float]:
        """The function's value at a distance along a direction."""
        moves = [
            (_real(self.leaves[name].detach()), self.base[name], v.to(self.base[name].dtype))
            for name, v in direction.items()
        ]

        def value(distance: float) -> float:
            self.evaluations += 1
            with torch.no_grad():
                for leaf, base, v in moves:
                    torch.add(base, v, alpha=distance, out=leaf)
            try:
                return self._value()
            finally:
                with torch.no_grad():
                    for leaf, base, _ in moves:
                        leaf.copy_(base)
                self._restore()

        return value

    def _value(self) -> float:
        """The function at its moved tensors.

        Raises:
            NotApplicable: it refuses them.
        """
        try:
            with seeded(), self._holding():
                value = self.function()
        except (RuntimeError, ValueError, ArithmeticError, IndexError) as error:
            raise NotApplicable(f"a loss that can be taken beside its own point ({error})") from error
        return float(value.detach())

    def _autograd_at(self, direction: Direction, distance: float) -> float:
        """Autograd's derivative along a direction, at a distance along it."""
        with torch.no_grad():
            for name, v in direction.items():
                _real(self.leaves[name].detach()).copy_(self.base[name] + distance * v.to(self.base[name].dtype))
        try:
            gradients = self._differentiate(holding=True)[1]
        finally:
            with torch.no_grad():
                for name in direction:
                    _real(self.leaves[name].detach()).copy_(self.base[name])
        return math.fsum(float((gradients[name] * v).sum()) for name, v in direction.items())

    def _restore(self) -> None:
        with torch.no_grad():
            for tensor, before in self.state:
                tensor.copy_(before)

    def signs(self, names: tuple[str, ...], seed: int) -> Direction:
        """Each entry moves by its tensor's scale, up or down at random: so each weighs the same, and none is missed."""
        generator = torch.Generator().manual_seed(seed)
        direction = {}
        for name in names:
            base = self.base[name]
            signs = torch.randint(0, 2, base.shape, generator=generator, dtype=torch.int8).to(base.device).double()
            direction[name] = signs.mul_(2).sub_(1).mul_(self.balanced[name])
        return direction

    def along_gradient(self, names: tuple[str, ...]) -> Direction:
        """Along the gradient itself, where a wrong scale shows in full."""
        return {
            name: self.gradients[name] * (self.balanced[name] / (rms(self.gradients[name]) or 1.0)) for name in names
        }

    def entry(self, name: str, place: int) -> Direction:
        """One entry alone, by its place in the flattened tensor."""
        base = self.base[name]
        direction = torch.zeros(base.numel(), dtype=torch.float64, device=base.device)
        direction[place] = self.scales[name]
        return {name: direction.view(base.shape)}

    def rounding(self, share: float) -> float:
        """The standard deviation of rounding in one value, seen on the scale of that share of the first step."""
        if share not in self._noises:
            floor = self.eps * abs(float(self.value))
            probe = self.along(self.signs(tuple(self.leaves), 0))
            self._noises[share] = max(noise(probe, share * RELATIVE_STEP / 16), floor)
        return self._noises[share]

    def typical(self, name: str) -> float:
        """What the derivative along one entry of a tensor is like."""
        return self.norms[name] * self.scales[name] / math.sqrt(self.base[name].numel())

    def compare(self, direction: Direction, rtol: float | None = None, size: float = 0.0) -> Comparison:
        """Autograd's derivative and that of differences, with the tolerance that rounding explains.

        `size` is the least that errors are measured against; without it, a small share of the whole gradient.
        """
        own = OWN_ROUNDING * self.rounding(SMALLER[-1]) / max(abs(float(self.value)), 1e-300)
        rtol = max(rtol or self.rtol, own, BACKWARD * self.backward)
        expected = math.fsum(float((self.gradients[name] * v).sum()) for name, v in direction.items())
        spread = math.hypot(*(float((self.gradients[name] * v).norm()) for name, v in direction.items()))
        size = max(spread, abs(expected), size or self.floor)
        rise = RISE * max(abs(float(self.value)), 1e-3) / max(abs(expected), 1e-300)
        step, function = min(RELATIVE_STEP, rise), self.along(direction)
        found = Derivative(math.nan, math.inf, math.inf)
        for share, finer in zip(SMALLER, (*SMALLER[1:], 0.0), strict=True):
            other = derivative(function, share * step, self.rounding(share), wanted=rtol * size / 8)
            found = min(found, other, key=lambda each: each.error)
            if found.error <= rtol * size or not finer or self.rounding(finer) / finer >= self.rounding(share) / share:
                break  # a smaller step is worth its rounding only where kinks lie within the larger one
        compared = Comparison(expected, found.value, size, rtol * size + 2 * found.error)
        return compared if compared.agrees else self._confirmed(direction, compared)

    def _confirmed(self, direction: Direction, compared: Comparison) -> Comparison:
        """A disagreement, or agreement where pieces of the smallest step that resolves it show none.

        A kink, a jump or a routing border spoils the few pieces that it lies in; a wrong backward spoils all of them.
        """
        apart = abs(compared.error)
        if math.isnan(apart):
            return compared
        step = min(RELATIVE_STEP, max(SMALLEST, RESOLVED * self.rounding(SMALLER[-1]) / apart))
        function, places = self.along(direction), [step * place / PIECES for place in range(-PIECES, PIECES + 1)]
        values = [function(place) for place in places]
        slopes = [self._autograd_at(direction, place) for place in places]
        errors = [
            (after - before) * PIECES / step - (one + other) / 2
            for (before, after), (one, other) in zip(pairwise(values), pairwise(slopes), strict=True)
        ]
        if abs(median(errors)) > STILL * apart:
            return compared
        return compared._replace(differences=compared.autograd, tolerance=max(compared.tolerance, apart))


def _real(tensor: Tensor) -> Tensor:
    """A complex tensor as its real and imaginary parts, in the same memory; any other as it is."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _scales(base: Mapping[str, Tensor]) -> dict[str, float]:
    """Each tensor's rms; of one of zeros what the others' is like."""
    sizes = {name: rms(each) for name, each in base.items()}
    fallback = _middle(sizes.values()) or 1.0
    return {name: size or fallback for name, size in sizes.items()}


def _middle(sizes: Iterable[float]) -> float:
    """The median of those above zero, the upper of two; 0 where there is none."""
    return median_high(above) if (above := [size for size in sizes if size > 0]) else 0.0


def _share(size: float, middle: float) -> float:
    """By how much a tensor moves less, so that its gradient does not drown the others'."""
    return min(1.0, middle / size) if size else 1.0
