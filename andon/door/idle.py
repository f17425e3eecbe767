"""Parameters of an optimizer whose gradient is exactly zero, as long as it is; and parameters that nobody moves."""

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from andon.verify.observation.optimizers import tensors_of

FIRST, EVERY = 32, 50  # steps that are all looked at, and then one in so many
LATE = (3, 6, 12, 25, 50, 100, 200)  # steps in which parameters that no optimizer holds are looked for
ENTRIES = 64  # of a gradient, to begin with


def note_gradients(each: Any) -> None:
    """Before a step: strike out what has a gradient; `each` is an Optimizing."""
    if each.steps >= FIRST and each.steps % EVERY:
        return
    if each.idle is None:
        each.idle = {id(p): (p, 0) for p in tensors_of(each.optimizer) if p.requires_grad}
    each.gradients_seen += 1
    for key, (p, count) in list(each.idle.items()):
        if not is_plain(p.grad):
            continue
        if is_zero(p.grad):
            each.idle[key] = (p, count + 1)
        else:
            del each.idle[key]


def of_others(run: Any, each: Any) -> set[int]:
    """Ids of parameters that other optimizers hold."""
    own = {id(p) for p in tensors_of(each.optimizer)}
    return {id(p) for other in run.optimizing.values() for p in tensors_of(other.optimizer)} - own


def learning(model: nn.Module, called: Iterable[nn.Module]) -> dict[str, nn.Parameter]:
    """Parameters of a model, and of modules in train mode that were called beside it, as those of a loss may be."""
    found = dict(model.named_parameters())
    own = {id(p) for p in found.values()}
    for module in called:
        beside = dict(module.named_parameters())
        if module.training and not own & {id(p) for p in beside.values()}:
            found |= {f"{type(module).__name__}.{name}": p for name, p in beside.items()}
    return found


def note_unheld(each: Any, run: Any, all_held: Callable[[], set[int]]) -> None:
    """Before a step: parameters of the model, or beside it, that get a gradient, and that no optimizer holds."""
    if each.model is None or each.steps not in LATE:
        return
    held = all_held()
    for name, p in learning(each.model, run.modules.values()).items():
        if id(p) not in held and p.requires_grad and is_plain(p.grad) and not is_zero(p.grad):
            count, first = each.unheld.get(name, (0, p.detach().reshape(-1)[:ENTRIES].clone()))
            each.unheld[name] = (count + 1, first)


def stayed(p: nn.Parameter, first: Tensor) -> bool:
    """Whether a parameter is still what it was."""
    return torch.equal(p.detach().reshape(-1)[:ENTRIES], first)


def is_plain(gradient: Any) -> TypeGuard[Tensor]:
    """Whether there is a gradient, of torch's own class, whose entries can be looked at."""
    return type(gradient) is Tensor and gradient.layout == torch.strided


def is_zero(gradient: Tensor) -> bool:
    """Whether each entry is; most have one among the first."""
    if gradient.is_contiguous() and bool(gradient.view(-1)[:ENTRIES].any()):
        return False
    return not bool(gradient.any())
