"""How much the gradient check sees: faults injected into backward passes, counted, beside a common weaker check.

A fault changes a gradient and no value. The weaker check compares single entries in float32, eps 1e-3, and alarms
where they differ by 0.2 or more: thresholds that are found in training code.
Legend: T time, D dim, H head_dim.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from andon.verify.gradients.compare import FACTOR, RTOL, joint_directions
from andon.verify.gradients.directional_derivatives import DirectionalDerivatives

WIDE, WIDTH, TIME = 768, 32, 6
TRIALS = 200
EPSILON, THRESHOLD, LOOKED_AT = 1e-3, 0.2, 16  # of the weaker check
Tamper = Callable[[Tensor], Tensor]


class Row(NamedTuple):
    """One kind of fault."""

    fault: str
    trials: int
    found: int
    weaker: int  # found by the weaker check


class _Tampered(Function):
    """The tensor itself, and another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tamper: Tamper) -> Tensor:
        ctx.tamper = tamper
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.tamper(grads[0]), None


def product(tamper: Tamper, seed: int) -> tuple[Callable[[], Tensor], dict[str, Tensor]]:
    """A layer with a 768 x 768 matrix whose gradient is tampered with."""
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(TIME, WIDE, generator=generator, dtype=torch.float64)
    weight = torch.randn(WIDE, WIDE, generator=generator, dtype=torch.float64).mul_(WIDE**-0.5).requires_grad_()
    seen_TD = torch.randn(TIME, WIDE, generator=generator, dtype=torch.float64)

    def loss() -> Tensor:
        hidden_TD = (x_TD.to(weight.dtype) @ _Tampered.apply(weight, tamper)).tanh()
        return (hidden_TD - seen_TD.to(weight.dtype)).square().mean() * FACTOR

    return loss, {"weight": weight}


def attention(fault: str, seed: int) -> tuple[Callable[[], Tensor], dict[str, Tensor]]:
    """A pre-norm attention layer with one fault in its backward, or none."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": (TIME, WIDTH), "gain": (WIDTH,), **dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH))}
    leaves = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).mul_(shape[-1] ** -0.5).requires_grad_()
        for name, shape in shapes.items()
    }
    seen_TD = torch.randn(TIME, WIDTH, generator=generator, dtype=torch.float64)
    hidden = torch.ones(TIME, TIME, dtype=torch.bool).triu(1)

    def loss() -> Tensor:
        x_TD = leaves["x"]
        inverse = (x_TD.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        if fault == "missing term":
            inverse = inverse.detach()
        if fault == "wrong sign":
            inverse = 2 * inverse.detach() - inverse
        normed_TD = x_TD * inverse * leaves["gain"]
        if fault == "detached branch":
            normed_TD = normed_TD.detach()
        q, k, v = (normed_TD @ leaves[name] for name in ("query", "key", "value"))
        scores_TT = q @ k.T / math.sqrt(WIDTH)
        if fault == "dropped 1/sqrt(d)":
            scores_TT = _Tampered.apply(scores_TT, lambda g: g * math.sqrt(WIDTH))
        mixed_TD = scores_TT.masked_fill(hidden, -math.inf).softmax(-1) @ v
        return (x_TD + mixed_TD @ leaves["out"] - seen_TD.to(x_TD.dtype)).square().mean() * FACTOR

    return loss, leaves


def one_entry(seed: int) -> Tamper:
    """One entry of at least a tenth of the gradient's rms, off by a thousandth of itself."""
    generator = torch.Generator().manual_seed(seed)

    def tamper(gradient: Tensor) -> Tensor:
        large = (gradient.abs() >= 0.1 * gradient.square().mean().sqrt()).flatten().nonzero()
        place = large[torch.randint(len(large), (), generator=generator.manual_seed(seed))]
        other = gradient.clone()
        other.view(-1)[place] *= 1 + 1e-3
        return other

    return tamper


Injection = Callable[[int], tuple[Callable[[], Tensor], dict[str, Tensor]]]
FAULTS: dict[str, Injection] = {
    **{
        f"scale off by {off:.0e}": lambda seed, off=off: product(lambda g: g * (1 + off), seed)
        for off in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    },
    "one entry of 589,824 off by 1e-3": lambda seed: product(one_entry(seed), seed),
    **{
        fault: lambda seed, fault=fault: attention(fault, seed)
        for fault in ("missing term", "wrong sign", "detached branch", "dropped 1/sqrt(d)")
    },
    "none (product)": lambda seed: product(lambda g: g, seed),
    "none (attention)": lambda seed: attention("", seed),
}


def measure(trials: int = TRIALS, progress: Callable[[int, int, str], None] = lambda *_: None) -> list[Row]:
    """Inject each fault `trials` times, each time into other random numbers, and count who sees it."""
    rows = []
    for done, (fault, inject) in enumerate(FAULTS.items()):
        found = weaker = 0
        for seed in range(trials):
            progress(done * trials + seed, len(FAULTS) * trials, fault)
            found += sees(*inject(seed), seed)
            weaker += weaker_sees(*inject(seed), seed)
        rows.append(Row(fault, trials, found, weaker))
    return rows


def sees(function: Callable[[], Tensor], leaves: dict[str, Tensor], seed: int) -> bool:
    """Whether a directional difference disagrees with autograd."""
    derivatives = DirectionalDerivatives(function, leaves, RTOL)
    return any(not derivatives.compare(direction).agrees for direction in joint_directions(derivatives, seed))


def weaker_sees(function: Callable[[], Tensor], leaves: dict[str, Tensor], seed: int) -> bool:
    """Whether the common check does: float32, single entries, the largest and random ones of each tensor."""
    generator = torch.Generator().manual_seed(seed)
    for leaf in leaves.values():
        leaf.data = leaf.data.float()
    function().backward()
    with torch.no_grad():
        for leaf in leaves.values():
            flat = leaf.data.view(-1)
            gradient = torch.zeros_like(flat) if leaf.grad is None else leaf.grad.flatten()
            largest = gradient.abs().topk(LOOKED_AT).indices
            for place in torch.cat((largest, torch.randint(len(flat), (LOOKED_AT,), generator=generator))).tolist():
                kept = float(flat[place])
                flat[place] = kept + EPSILON
                above = float(function())
                flat[place] = kept - EPSILON
                below = float(function())
                flat[place] = kept
                if abs((above - below) / (2 * EPSILON) - float(gradient[place])) >= THRESHOLD:
                    return True
    return False


def render(rows: list[Row]) -> str:
    """A table of at most 100 columns."""
    head = f"{'injected into the backward':<36}{'trials':>8}{'found':>8}{'share':>9}{'|difference| >= 0.2':>22}"
    lines = [
        f"{row.fault:<36}{row.trials:>8}{row.found:>8}{row.found / row.trials:>9.1%}{row.weaker / row.trials:>22.1%}"
        for row in rows
    ]
    return "\n".join([head, "-" * len(head), *lines]) + "\n"
