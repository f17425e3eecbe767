"""Custom autograd functions whose backward is not meant to be the derivative of their forward, each asked on its own.

A straight-through estimator, a surrogate for a spike, a reversed or injected gradient: forward is flat or the identity,
so that no derivative of it could be what backward returns, and only its author knows whether that is meant.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from andon.verify.access.calls import seeded
from andon.verify.gradients.compare import SOLVER
from andon.verify.observation.graph import nodes_of
from andon.verify.observation.tolerances import norm_of

BUILT_IN = "FakeQuantize"  # torch's own straight-through estimators
CALLS = 3  # of one function that are looked at
ALONE = 0.5  # different numbers among as many of a quantizer's, whose step may be measured from what it rounds
ROUNDED = 1e-8  # of a derivative in float64 by differences, and more than they are off
ONE_SHARE = 0.5  # of the largest share that is off: a constant that is wrong is off by one in each direction
DIRECTIONS = range(1, 7)  # by their seeds
STEP = 1e-6  # of a tensor's norm, for a derivative in float64 of a function alone


class Call(NamedTuple):
    """One call of a custom function."""

    function: Any  # a subclass of torch.autograd.Function
    arguments: tuple[Any, ...]


class Custom:
    """The custom functions in a function's graph, and the first calls of each."""

    def __init__(self, function: Callable[[], Tensor]) -> None:
        nodes = list(nodes_of(_value(function)))
        self.built_in = next((node.name() for node in nodes if node.name().startswith(BUILT_IN)), "")
        self.calls = _calls(function, _custom(nodes))

    def surrogate(self) -> str:
        """What backward is no derivative on purpose, and how that is known; empty where none is."""
        if self.built_in:
            return f"{self.built_in.removesuffix('Backward0')} rounds in forward and passes the gradient on"
        return next((said for call in self.calls if (said := _surrogate(call))), "")

    def approximation(self) -> str:
        """What backward is nearly its forward's derivative, not by one share off; empty where none is.

        A forward that approximates, or a backward that solves, is off by another share in each direction.
        """
        return next((said for call in self.calls if (said := _approximation(call))), "")


def _value(function: Callable[[], Tensor]) -> Tensor:
    with seeded(), torch.enable_grad():
        return function()


def _custom(nodes: list[Any]) -> set[Any]:
    custom = {node._forward_cls for node in nodes if hasattr(node, "_forward_cls")}  # noqa: SLF001 - no public name
    return {each for each in custom if not each.__module__.startswith("torch.")}


def _calls(function: Callable[[], Tensor], classes: set[Any]) -> list[Call]:
    """The first calls of each of these functions."""
    found: list[Call] = []
    if classes:
        with _noting(classes, found):
            _value(function)
    return found


@contextmanager
def _noting(classes: set[Any], found: list[Call]) -> Generator[None]:
    own = {each: each.__dict__.get("forward") for each in classes}
    for each in classes:
        forward, with_context = each.forward, not _sets_up_apart(each)

        def noted(*args: Any, each: Any = each, forward: Any = forward, with_context: bool = with_context) -> Any:
            if sum(call.function is each for call in found) < CALLS:
                given = args[1:] if with_context else args
                found.append(Call(each, tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in given)))
            return forward(*args)

        each.forward = staticmethod(noted)
    try:
        yield
    finally:
        for each, forward in own.items():
            if forward is None:
                del each.forward
            else:
                each.forward = forward


def _sets_up_apart(function: Any) -> bool:
    """Whether forward takes no context, as there is `setup_context`."""
    return function.setup_context is not torch.autograd.Function.setup_context


def _surrogate(call: Call) -> str:
    """How a function's forward shows that its backward cannot be its derivative; empty where it could be."""
    floating = [place for place, each in enumerate(call.arguments) if _is_floating(each)]
    for place in floating:
        slope, backward = _slope(call, place), _backward(call, place)
        if slope is None or abs(slope - backward) <= SOLVER * max(abs(slope), abs(backward)):
            continue
        if how := _how(call, place, slope):
            return f"{call.function.__qualname__} of {call.function.__module__} {how}"
    return ""


def _approximation(call: Call) -> str:
    for place in (place for place, each in enumerate(call.arguments) if _is_floating(each)):
        slopes = [(_slope(call, place, seed), _backward(call, place, seed)) for seed in DIRECTIONS]
        if off := _nearly([(slope, backward) for slope, backward in slopes if slope]):
            return f"{call.function.__qualname__} of {call.function.__module__} is by itself off by {off:.1g}"
    return ""


def _nearly(slopes: list[tuple[float, float]]) -> float:
    """By what share of them slopes differ from what backward says; 0 where by rounding, by one share or by too much."""
    size = max((abs(slope) for slope, _ in slopes), default=0.0)
    off = max((abs(slope - backward) for slope, backward in slopes), default=0.0)
    shares = sorted(1 - backward / slope for slope, backward in slopes)
    if not ROUNDED * size < off <= SOLVER * size or shares[-1] - shares[0] <= ONE_SHARE * max(map(abs, shares)):
        return 0.0
    return off / size


def _how(call: Call, place: int, slope: float) -> str:
    if slope == 0:
        return "does not move with its input, and passes a gradient on"
    given = call.arguments[place]
    same = [each for each in _outputs(call, given) if each.shape == given.shape]
    if any(torch.equal(each, given) for each in same):
        return "returns its input as it is, and another gradient than it gets"
    if same and not _is_of_levels(given) and all(map(_is_of_levels, same)):
        return "rounds different numbers to the same few, and passes a gradient on"
    return ""


def _is_of_levels(value: Tensor) -> bool:
    """Whether numbers are a quantizer's: most stand there several times, beside the one that stands there most."""
    counts = value.flatten().unique(return_counts=True)[1].sort().values[:-1]
    return len(counts) <= ALONE * float(counts.sum())


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _outputs(call: Call, value: Tensor | None = None, place: int = -1) -> list[Tensor]:
    arguments = list(call.arguments)
    if place >= 0:
        arguments[place] = value
    with seeded():
        outputs = call.function.apply(*arguments)
    return [each for each in ([outputs] if isinstance(outputs, Tensor) else outputs) if _is_floating(each)]


def _weighted(outputs: list[Tensor]) -> Tensor:
    """The outputs' sum with random weights, the same each time."""
    generator = torch.Generator().manual_seed(0)
    terms = [(each * torch.randn(each.shape, generator=generator).to(each)).sum() for each in outputs]
    return torch.stack([term.double() for term in terms]).sum()


def _direction(given: Tensor, seed: int) -> Tensor:
    signs = torch.randint(0, 2, given.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return signs.to(given) * (norm_of([given]) or 1.0) / given.numel() ** 0.5


def _slope(call: Call, place: int, seed: int = 1) -> float | None:
    """Forward's derivative along a direction of one input."""
    given = call.arguments[place]
    moved = STEP * _direction(given, seed)
    with torch.no_grad():
        above, below = (_weighted(_outputs(call, given + sign * moved, place)) for sign in (1, -1))
    return float(above - below) / (2 * STEP)


def _backward(call: Call, place: int, seed: int = 1) -> float:
    """What backward says of it."""
    given = call.arguments[place].clone().requires_grad_()
    value = _weighted(_outputs(call, given, place))
    if not value.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(value, given, allow_unused=True)
    return 0.0 if gradient is None else float((gradient * _direction(given.detach(), seed)).sum())
