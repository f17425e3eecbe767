"""A Subject made of what a script did in one window: its model, the batch it was given, the loss as it was computed."""

import inspect
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.capturing.fused import with_plain_calls
from andon.verify.capturing.torch_calls import (
    Entry,
    Likelihood,
    Recorder,
    leaves,
    needed,
    replayed,
    whole,
    without_draws,
    without_selections,
)
from andon.verify.errors import NotApplicable, listed
from andon.verify.subject import Subject

IGNORED = -100
CLOSE = 1e-4  # of the recorded loss, to which a replay must come
SCALES = ("mul", "div", "__mul__", "__rmul__", "__truediv__", "true_divide", "__imul__", "__itruediv__", "multiply")


@dataclass
class Captured:
    """What was recorded of one micro-batch."""

    entries: list[Entry]
    loss: Tensor
    modules: list[nn.Module]  # as the script has them
    before: list[nn.Module]  # copies from before the pass
    state: Tensor  # of torch's random numbers before it
    compared: list[tuple[Tensor, float]]
    likelihoods: list[Likelihood]
    optimizer: Optimizer | None = None
    factor: float = 1.0  # that the script multiplies its loss by, at last
    micro_batches: int = 1  # of which a step sums the gradients, as they are
    parts: dict[str, Tensor] = field(default_factory=dict)
    held: dict[int, tuple[int, str]] = field(default_factory=dict)  # leaves that are a module's: place, name
    subject: Subject | None = None

    def values(self, batch: dict[str, Tensor], modules: list[nn.Module]) -> dict[int, Tensor]:
        """All recorded tensors by id, computed again from these."""
        values = {id(old): batch[name] for name, old in self.parts.items()}
        for key, (place, name) in self.held.items():
            values[key] = _tensor_of(modules[place], name)
        return replayed(self.entries, values, dict(_parts_in_place(self.modules, modules)))

    def loss_of(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The script's loss of this model, without the last constant factor.

        Raises:
            NotApplicable: the batch has other numbers of rows or labels, on which a constant may depend.
        """
        if any(each.counts for each in self.entries) and _counted(batch) != _counted(self.parts):
            raise NotApplicable(
                "a loss whose divisor torch computes from its batch: here a torch.autograd.Function is given a whole "
                "number, which may be a count of this one"
            )
        return self.values(batch, parts_of(model, len(self.modules)))[id(self.loss)]


def _counted(parts: dict[str, Tensor]) -> dict[str, int]:
    """How many numbers each part has, ignored labels aside."""
    return {name: int((each != IGNORED).sum()) for name, each in parts.items()}


class Parts(nn.Module):
    """Several modules that a script calls one by one."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)


def _parts_in_place(olds: list[nn.Module], news: list[nn.Module]) -> Iterator[tuple[int, nn.Module]]:
    """Each module of some, by id, and the one of their copies that stands in its place."""
    for old, new in zip(olds, news, strict=True):
        yield from zip(map(id, old.modules()), new.modules(), strict=True)


def parts_of(model: nn.Module, count: int) -> list[nn.Module]:
    """The modules of a script's model."""
    return [model] if count == 1 else list(model.parts)  # ty: ignore[invalid-argument-type]


def capture(recorder: Recorder, loss: Tensor, optimizer: Optimizer | None) -> Captured:
    """What one micro-batch was, held to a replay; where that differs, one with what was drawn at random as given.

    Raises:
        NotApplicable: it cannot be made again.
    """
    kept = needed(with_plain_calls(without_selections(needed(recorder.entries, loss))), loss)
    captured = _captured(recorder, kept, loss, optimizer)
    lack = _lack_of(captured)
    if lack:
        given = without_draws(kept)
        captured = _captured(recorder, needed(given, loss), loss, optimizer)
        if len(given) == len(kept) or _lack_of(captured):
            raise NotApplicable(lack)
    _strip_factor(captured)
    return captured


def _captured(recorder: Recorder, kept: list[Entry], loss: Tensor, optimizer: Optimizer | None) -> Captured:
    wholes = [whole(each.module, recorder.models) for each in kept if each.module is not None]
    modules = list({id(each): each for each in wholes}.values())
    if not modules:
        raise NotApplicable("a loss that torch calls make of what a module returned")
    missing = [each for each in modules if id(each) not in recorder.before]
    if missing:
        raise NotApplicable(f"a {type(missing[0]).__name__} that can be copied")
    captured = Captured(
        kept,
        loss,
        modules,
        before=[recorder.before[id(each)] for each in modules],
        state=recorder.random,
        compared=recorder.compared,
        likelihoods=recorder.likelihoods,
        optimizer=optimizer,
    )
    _name_leaves(captured)
    return captured


def as_subject(captured: Captured) -> Subject:
    """The same as a Subject, one for all that is asked; its optimizer where one of its class can be made for a copy."""
    if captured.subject is None:
        captured.subject = _made(captured)
    return captured.subject


def _made(captured: Captured) -> Subject:
    whole = captured.before[0] if len(captured.before) == 1 else Parts(captured.before)
    batch = {key: value.detach().clone() for key, value in captured.parts.items()}
    name = type(captured.modules[0]).__name__
    return Subject(name=name, model=whole, batch=batch, loss=captured.loss_of, optimizer=_optimizer_factory(captured))


def _name_leaves(captured: Captured) -> None:
    """Give each tensor that comes from outside a name: a module's own, or a part of the batch."""
    own = {
        id(tensor): (place, name)
        for place, module in enumerate(captured.modules)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    names = _argument_names(captured)
    for leaf in leaves(captured.entries):
        if id(leaf) in own:
            captured.held[id(leaf)] = own[id(leaf)]
            continue
        name = names.get(id(leaf)) or _free_name(leaf, captured.parts)
        captured.parts[name if name not in captured.parts else f"{name}_{len(captured.parts)}"] = leaf


def _free_name(leaf: Tensor, parts: dict[str, Tensor]) -> str:
    whole = not leaf.is_floating_point() and leaf.dtype != torch.bool and leaf.dim() > 0
    return "labels" if whole and "labels" not in parts else f"part_{len(parts)}"


def _argument_names(captured: Captured) -> dict[int, str]:
    """Tensors that are arguments of a module, by the names in its signature."""
    names: dict[int, str] = {}
    for entry in captured.entries:
        if entry.module is None:
            continue
        try:
            bound = inspect.signature(entry.module.forward).bind(*entry.args, **entry.kwargs)
        except (TypeError, ValueError):
            continue
        arguments = dict(bound.arguments)
        arguments |= arguments.pop("kwargs", {}) if isinstance(arguments.get("kwargs"), dict) else {}
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                names.setdefault(id(value), name)
    return names


def _lack_of(captured: Captured) -> str:
    """What a replay on the same numbers lacks; empty where it is the recorded loss.

    With other random numbers it must be one, too: what a module has drawn may come to the loss by a way beside its
    result, and stays what it was.
    """
    got, due = _replayed_loss(captured, captured.state), float(captured.loss.detach())
    if abs(got - due) > CLOSE * max(1.0, abs(due)):
        return f"a loss that a replay of its torch calls repeats: {due:.6g} came again as {got:.6g}"
    kept = [name for name, part in captured.parts.items() if part.grad_fn is not None]
    others = torch.Generator().manual_seed(0).get_state()
    if kept and math.isfinite(due) and not math.isfinite(_replayed_loss(captured, others)):
        return f"a loss of what modules return: {listed(kept)} are made within one, and not returned"
    return ""


def _replayed_loss(captured: Captured, state: Tensor) -> float:
    """The loss that the recorded calls make of copies, from this state of random numbers on."""
    copies = deepcopy(captured.before)
    with torch.random.fork_rng([]):
        torch.set_rng_state(state)
        with torch.no_grad() if not captured.loss.requires_grad else torch.enable_grad():
            again = captured.values({key: each.detach() for key, each in captured.parts.items()}, copies)
    return float(again[id(captured.loss)].detach())


def _strip_factor(captured: Captured) -> None:
    """Take constant factors off the loss's end: they scale gradients for accumulation, and are not the loss."""
    while captured.entries and (factor := _last_factor(captured)):
        captured.factor *= factor
        captured.loss = captured.entries[-1].args[0]
        captured.entries = needed(captured.entries[:-1], captured.loss)
    given = {id(leaf) for leaf in leaves(captured.entries)}
    captured.parts = {name: leaf for name, leaf in captured.parts.items() if id(leaf) in given}


def _last_factor(captured: Captured) -> float:
    """The constant that the last call multiplies a number by; 0 where it does something else."""
    last = captured.entries[-1]
    first = last.args[0] if last.args else None
    constants = [float(each) for each in last.args[1:] if _is_constant(each, last, captured)]
    if last.name not in SCALES or len(constants) != 1 or not isinstance(first, Tensor) or first.numel() != 1:
        return 0.0
    return 1 / constants[0] if "div" in last.name else constants[0]


def _is_constant(value: Any, last: Entry, captured: Captured) -> bool:
    """Whether it is a number, or a tensor of one that nothing recorded made, and that multiplies: a loss scaler's."""
    if not isinstance(value, Tensor):
        return isinstance(value, int | float)
    outside = any(value is each for each in captured.parts.values())
    return outside and value.dim() == 0 and value.is_floating_point() and "mul" in last.name


def _tensor_of(module: nn.Module, name: str) -> Tensor:
    owner, _, own = name.rpartition(".")
    return getattr(module.get_submodule(owner), own)


def _optimizer_factory(captured: Captured) -> Callable[[nn.Module], Optimizer] | None:
    """Makes an optimizer of the same class, groups and settings for a copy; None where that cannot be."""
    if captured.optimizer is None:
        return None
    kind: Any = type(captured.optimizer)
    known = {
        id(p): (place, name) for place, module in enumerate(captured.modules) for name, p in module.named_parameters()
    }
    taken, defaults = inspect.signature(kind.__init__).parameters, captured.optimizer.defaults
    allowed = set(taken) & set(defaults)
    required = {key: defaults[key] for key in allowed if taken[key].default is inspect.Parameter.empty}
    groups: list[tuple[list[tuple[int, str]], dict[str, Any]]] = []
    for group in captured.optimizer.param_groups:
        if any(id(p) not in known for p in group["params"]):
            return None
        settings = {key: value for key, value in group.items() if key in allowed}
        groups.append(([known[id(p)] for p in group["params"]], settings))

    def made(model: nn.Module) -> Optimizer:
        modules = parts_of(model, len(captured.modules))
        return kind(
            [{"params": [_tensor_of(modules[place], name) for place, name in names], **s} for names, s in groups],
            **required,
        )

    return made
