"""The updates of a step: what each optimizer was about to apply, as hooks of torch's optimizers see it."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.observation.optimizers import tensors_of
from andon.verify.observation.parameters import State, moved_since


class Update(NamedTuple):
    """What an optimizer was about to apply."""

    gradients: State  # divided by a fused optimizer's scale; absent where there is none
    rates: tuple[float, ...]  # of its groups
    decays: tuple[float, ...]
    is_adaptive: bool  # of Adam's kind: an update has about the size of the rate
    names: frozenset[str]  # of the parameters that it is for, with a gradient or without
    options: tuple[dict[str, Any], ...]  # what else its groups say as it is made
    moved: State  # the weights as it finds them, where that is elsewhere than as the step began
    sparse: bool  # some gradient holds a few rows alone
    repeats: bool = False  # it is given a function that evaluates the loss again, and may move several times by it
    elsewhere: bool = False  # some pass before it ran at other weights than the step began with, as in a search uphill

    def size(self, name: str) -> float:
        """About how far the largest entry of a parameter will move."""
        return max(self.rates) * (1.0 if self.is_adaptive else float(self.gradients[name].abs().max()))


@contextmanager
def updates_noted(model: nn.Module, began: State, elsewhere: Sequence[bool]) -> Generator[list[Update]]:
    """The updates of this model's parameters; several optimizers that share them make one update together.

    What an optimizer steps within its own step is part of it, and a closure that it calls again and again gives the
    gradient of one update: the first.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    noting = _Noting(model, began, elsewhere)
    handles = [register_optimizer_step_pre_hook(noting.before), register_optimizer_step_post_hook(noting.after)]
    try:
        yield noting.seen
    finally:
        for handle in handles:
            handle.remove()


class _Noting:
    """What torch's hooks call before and after each step of any optimizer."""

    def __init__(self, model: nn.Module, began: State, elsewhere: Sequence[bool]) -> None:
        self.seen: list[Update] = []
        self._model, self._began, self._elsewhere = model, began, elsewhere
        self._running: Any = None  # the optimizer that is within a step that was noted

    def before(self, optimizer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None or self._running is not None:
            self._note(optimizer)
            return None

        def followed() -> Any:
            value = closure()  # which may make the gradients
            self._note(optimizer, repeats=True)
            return value

        return (arguments[0], followed), {key: value for key, value in named.items() if key != "closure"}

    def after(self, optimizer: Any, *_: Any) -> None:
        if self._running is optimizer:
            self._running = None

    def _note(self, optimizer: Any, *, repeats: bool = False) -> None:
        update = None if self._running is not None else _update(optimizer, self._model, self._began)
        if update is None:
            return
        self._running = optimizer
        update = update._replace(elsewhere=True in self._elsewhere, repeats=repeats)
        joined = bool(self.seen) and not self.seen[-1].names & update.names
        self.seen.append(_joined(self.seen.pop(), update) if joined else update)


def _update(optimizer: Any, model: nn.Module, began: State) -> Update | None:
    """What an optimizer is about to do to this model; None where that is nothing."""
    listed, groups = {id(parameter) for parameter in tensors_of(optimizer)}, optimizer.param_groups
    own = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in listed}
    if not own or _is_told_to_skip(optimizer):
        return None
    return Update(
        _gradients(optimizer, own),
        _numbers(groups, "lr"),
        _numbers(groups, "weight_decay"),
        all("betas" in group for group in groups),
        frozenset(own),
        tuple({key: value for key, value in group.items() if key != "params"} for group in groups),
        moved_since(model, began),
        any(_is_sparse(parameter) for parameter in own.values()),
    )


def _is_told_to_skip(optimizer: Any) -> bool:
    """Whether a scaler has told a fused optimizer to leave the weights alone, as a gradient is not finite."""
    overflow = getattr(optimizer, "found_inf", None)
    return overflow is not None and bool(torch.as_tensor(overflow).any())


def _gradients(optimizer: Any, own: Mapping[str, nn.Parameter]) -> State:
    scale = getattr(optimizer, "grad_scale", None)
    divisor = 1.0 if scale is None else float(scale)
    return {name: _dense(p.grad) / divisor for name, p in own.items() if p.grad is not None}


def _numbers(groups: list[dict[str, Any]], option: str) -> tuple[float, ...]:
    return tuple(float(group.get(option) or 0.0) for group in groups)


def _is_sparse(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse


def _dense(gradient: Tensor) -> Tensor:
    return (gradient.to_dense() if gradient.is_sparse else gradient).detach().clone()


def _joined(one: Update, other: Update) -> Update:
    return Update(
        one.gradients | other.gradients,
        one.rates + other.rates,
        one.decays + other.decays,
        one.is_adaptive and other.is_adaptive,
        one.names | other.names,
        one.options + other.options,
        one.moved | {name: tensor for name, tensor in other.moved.items() if name not in one.names},
        one.sparse or other.sparse,
        one.repeats or other.repeats,
        one.elsewhere or other.elsewhere,
    )
