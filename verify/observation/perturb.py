"""What rounding explains in a model's numbers, and models without dropout."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.batches import tensors_in
from andon.verify.access.calls import new_model
from andon.verify.access.logits import logits_of
from andon.verify.errors import NotApplicable
from andon.verify.observation.blocks import blocks_of
from andon.verify.observation.tolerances import ROUNDING
from andon.verify.subject import Batch, Subject

SHALLOW = 8  # blocks up to which `ROUNDING` holds as it stands
Evaluate = Callable[[Subject, nn.Module, Batch], Tensor]


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
