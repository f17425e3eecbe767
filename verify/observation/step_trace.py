"""What a training run really does: gradients as an update sees them, weights around it, tokens that the model is shown.

Nothing here relies on what the code under test says it did; hooks of torch's modules and optimizers see it happen.
"""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.observation.optimizers import tensors_of
from andon.verify.observation.parameters import State, parameters

INTEGERS = (torch.int64, torch.int32)


class Update(NamedTuple):
    """What an optimizer was about to apply."""

    gradients: State  # divided by a fused optimizer's scale; absent where there is none
    rates: tuple[float, ...]  # of its groups
    decays: tuple[float, ...]
    is_adaptive: bool  # of Adam's kind: an update has about the size of the rate
    names: frozenset[str]  # of the parameters that it is for, with a gradient or without
    options: tuple[dict[str, Any], ...]  # what else its groups say as it is made

    def size(self, name: str) -> float:
        """About how far the largest entry of a parameter will move."""
        return max(self.rates) * (1.0 if self.is_adaptive else float(self.gradients[name].abs().max()))


class Call(NamedTuple):
    """One outermost call of a module with token ids, where a gradient was wanted."""

    inputs: dict[str, Tensor]  # the integers among its arguments, by name, and by position where they came by it
    random: Tensor  # torch's state before it
    training: bool


class StepTrace(NamedTuple):
    """One step of a run: weights before and after, updates, calls of the model, what was logged."""

    before: State
    after: State
    updates: tuple[Update, ...]
    calls: tuple[Call, ...]
    logged: dict[str, Any]
    autocast: bool  # half precision was switched on somewhere inside


def trace_step(model: nn.Module, act: Callable[[], Mapping[str, Any] | None]) -> StepTrace:
    """Let `act` train this model, and trace what it does."""
    updates: list[Update] = []
    calls: list[Call] = []
    autocast: set[bool] = set()
    before = parameters(model)
    with _updates(model, updates), _calls(model, calls, autocast):
        logged = act()
    return StepTrace(before, parameters(model), tuple(updates), tuple(calls), dict(logged or {}), True in autocast)


@contextmanager
def _updates(model: nn.Module, seen: list[Update]) -> Generator[None]:
    """Notes each update of this model's parameters; several optimizers that share them make one update together."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def before(optimizer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None:
            note(optimizer)
            return None

        def followed() -> Any:
            value = closure()  # which may make the gradients
            note(optimizer)
            return value

        return (arguments[0], followed), {key: value for key, value in named.items() if key != "closure"}

    def note(optimizer: Any) -> None:
        listed = {id(parameter) for parameter in tensors_of(optimizer)}
        own = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in listed]
        overflow = getattr(optimizer, "found_inf", None)
        if not own or (overflow is not None and bool(torch.as_tensor(overflow).any())):
            return  # another model's, or told to leave the weights alone
        scale = getattr(optimizer, "grad_scale", None)
        divisor = 1.0 if scale is None else float(scale)
        gradients = {name: _dense(p.grad) / divisor for name, p in own if p.grad is not None}
        rates = tuple(float(group.get("lr") or 0.0) for group in optimizer.param_groups)
        decays = tuple(float(group.get("weight_decay") or 0.0) for group in optimizer.param_groups)
        is_adaptive = all("betas" in group for group in optimizer.param_groups)
        options = tuple({**group} for group in optimizer.param_groups)
        for each in options:
            del each["params"]
        update = Update(gradients, rates, decays, is_adaptive, frozenset(name for name, _ in own), options)
        if seen and not seen[-1].names & update.names:
            update = _joined(seen.pop(), update)
        seen.append(update)

    handle = register_optimizer_step_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def _joined(one: Update, other: Update) -> Update:
    return Update(
        one.gradients | other.gradients,
        one.rates + other.rates,
        one.decays + other.decays,
        one.is_adaptive and other.is_adaptive,
        one.names | other.names,
        one.options + other.options,
    )


@contextmanager
def _calls(model: nn.Module, seen: list[Call], autocast: set[bool]) -> Generator[None]:
    inside: list[nn.Module] = []

    def enter(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        autocast.add(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))
        if _in_backward():  # what a checkpoint computes again was seen before
            return
        inputs = dict(_integers({**dict(enumerate(arguments)), **named}))
        if inputs and not inside and torch.is_grad_enabled():
            inputs |= dict(_integers(_by_name(module, arguments)))
            seen.append(Call(inputs, torch.get_rng_state(), module.training))
        if inputs:
            inside.append(module)

    def leave(module: nn.Module, *_: Any) -> None:
        if inside and inside[-1] is module and not _in_backward():
            inside.pop()

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_name(module: nn.Module, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments that came by position, by the names that the module's `forward` gives them."""
    try:
        return inspect.signature(module.forward).bind_partial(*arguments).arguments
    except (TypeError, ValueError):
        return {}


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch's own checkpoint finds out the same way


def _integers(arguments: Mapping[Any, Any]) -> Generator[tuple[str, Tensor]]:
    for key, value in arguments.items():
        if isinstance(value, Tensor) and value.dtype in INTEGERS and value.dim():
            yield str(key), value.detach().clone()
        elif isinstance(value, Mapping):
            yield from _integers(value)
        elif isinstance(value, tuple | list):
            yield from _integers(dict(enumerate(value)))


def _dense(gradient: Tensor) -> Tensor:
    return (gradient.to_dense() if gradient.is_sparse else gradient).detach().clone()
