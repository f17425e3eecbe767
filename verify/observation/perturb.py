"""Perturbed models: parameters rescaled so that faults show, in enough precision, without dropout.

A freshly initialized model is nearly blind: its attention is almost uniform and every token costs about ln V, so that
most faults move its logits by less than rounding. What is true of any weights is therefore checked at larger ones.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.batches import tensors_in
from andon.verify.access.calls import new_model, precise
from andon.verify.access.logits import logits_of
from andon.verify.errors import NotApplicable
from andon.verify.observation.blocks import blocks_of
from andon.verify.observation.tolerances import ROUNDING
from andon.verify.subject import Batch, Subject

LARGEST_GAIN = 1e3
SHALLOW = 8  # blocks up to which `ROUNDING` holds as it stands
Evaluate = Callable[[Subject, nn.Module, Batch], Tensor]
SAMPLE, MOST_CONSTANTS = 4096, 3  # numbers that are looked at; and different ones among them that no draw has
NOISE = 0.1  # added to gains and biases, so that none is neutral


def perturbed_model(subject: Subject, seed: int = 0) -> nn.Module:
    """A model in eval mode, at least float32 where its code allows, whose matrices have std 1/sqrt(inputs) or more."""
    model = precise(subject, new_model(subject, seed)).eval()
    rescale(model)
    return model


@torch.no_grad()
def rescale(model: nn.Module, *, vectors: bool = True) -> None:
    """In place: scale matrices up to std 1/sqrt(inputs), fill zeros, and add noise to gains, biases and constants.

    A gain for each row (weight norm's), an identity that mixes streams, or a table of a formula is no drawn matrix:
    scaled, it would make another model. A scalar at zero opens (ReZero).
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0 or parameter.layout != torch.strided:
            continue
        if parameter.dim() == 0 and parameter.any():
            continue
        if parameter.dim() < 2 or (parameter.any() and not is_drawn_matrix(parameter)):
            if vectors:
                parameter.add_(NOISE * torch.randn(parameter.shape, generator=generator).to(parameter))
            continue
        wanted = parameter[0].numel() ** -0.5
        std = float(parameter.float().std())
        if std > 0:
            parameter.mul_(min(max(1.0, wanted / std), LARGEST_GAIN))
        elif not parameter.any():
            parameter.copy_(wanted * torch.randn(parameter.shape, generator=generator))


def is_drawn_matrix(parameter: Tensor) -> bool:
    """Whether its numbers are draws, a row of them summed up: no gain per row, identity, or table of a formula."""
    if parameter.dim() < 2 or parameter[0].numel() < 2:
        return False
    some = parameter.detach().flatten()[:SAMPLE]
    return len(some.unique()) > max(MOST_CONSTANTS, len(some) // 16)


@torch.no_grad()
def fill_zero_parameters(model: nn.Module) -> nn.Module:
    """The model, in place, with small random numbers in what is zero: nothing is learned through a zero at first."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dim() and not parameter.any():
            size = NOISE if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model


def rounding_tolerance(subject: Subject, model: nn.Module, batch: Batch, evaluate: Evaluate = logits_of) -> float:
    """What rounding explains in logits, or the loss: that of the coarsest dtype, more in a deep model.

    Roundings of layers are independent of each other, so that their sum grows as the root of their number.
    """
    return coarsest_eps(subject, model, batch, evaluate) * max(1.0, depth(model) / SHALLOW) ** 0.5


def depth(model: nn.Module) -> int:
    """The number of repeated blocks; 0 where there are none."""
    try:
        return len(blocks_of(model))
    except NotApplicable:
        return 0


def coarsest_eps(subject: Subject, model: nn.Module, batch: Batch, evaluate: Evaluate = logits_of) -> float:
    """What rounding explains in the coarsest dtype of parameters and outputs."""
    seen = {p.dtype for p in model.parameters() if p.is_floating_point()}

    def note(_module: nn.Module, _args: object, output: object) -> None:
        seen.update(tensor.dtype for tensor in tensors_in(output) if tensor.is_floating_point())

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        seen.add(evaluate(subject, model, batch).dtype)
    finally:
        for hook in hooks:
            hook.remove()
    return max(ROUNDING.get(dtype, 0.0) for dtype in seen)


@contextmanager
def without_autocast() -> Generator[None]:
    """Within `with`, `torch.autocast` leaves dtypes as they are, whoever enters it."""
    kind = torch.amp.autocast_mode.autocast
    enter = kind.__enter__

    def idle(context: Any) -> Any:
        own = vars(context)
        kept, own["_enabled"] = own["_enabled"], False
        try:
            return enter(context)
        finally:  # the subject may enter the same object again, outside
            own["_enabled"] = kept

    setattr(kind, "__enter__", idle)  # noqa: B010 - a plain assignment is not another method to a type checker
    try:
        yield
    finally:
        kind.__enter__ = enter


def without_dropout(model: nn.Module) -> nn.Module:
    """The model with every dropout rate 0, in place."""
    for module, name, _ in _rates(model):
        setattr(module, name, 0.0)
    return model


def dropout_rates(model: nn.Module) -> list[float]:
    """Those of torch's dropout modules."""
    return [rate for module, _, rate in _rates(model) if isinstance(module, nn.Dropout)]


def _rates(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """Torch's dropout modules' rates, and numbers that modules keep under such names."""
    found = []
    for module in model.modules():
        own = "drop" in type(module).__name__.lower()
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or (own and name == "p")):
                found.append((module, name, value))
    return found


@torch.no_grad()
def logits_eval(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    """Logits in eval mode, without a graph."""
    return logits_of(subject, model.eval(), batch)


def is_fresh(subject: Subject) -> bool:
    """Whether the factory initializes anew: another seed gives other weights."""
    pairs = zip(new_model(subject, 0).parameters(), new_model(subject, 1).parameters(), strict=True)
    return any(not torch.equal(first, second) for first, second in pairs)


def require_fresh(subject: Subject) -> None:
    """Raise NotApplicable where the weights do not come from torch's seed."""
    if not is_fresh(subject):
        raise NotApplicable("a model whose weights follow torch's seed")
