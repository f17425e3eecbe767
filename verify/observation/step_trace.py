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
from andon.verify.observation.parameters import State, buffers_of, parameters

INTEGERS = (torch.int64, torch.int32)
LOOKS = 16  # passes of a step whose weights are compared with those it began with


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
    repeats: bool  # it is given a function that evaluates the loss again, and may move several times by it
    elsewhere: bool  # some pass before it ran at other weights than the step began with, as in a search uphill

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
    buffers: State  # before it
    random: Tensor  # torch's state before it
    backward: bool  # gradients came by `backward()`, and not by hand


def trace_step(model: nn.Module, act: Callable[[], Mapping[str, Any] | None]) -> StepTrace:
    """Let `act` train this model, and trace what it does."""
    updates: list[Update] = []
    calls: list[Call] = []
    autocast: set[bool] = set()
    elsewhere: list[bool] = []
    before, buffers, random = parameters(model), buffers_of(model), torch.get_rng_state()
    passes: list[None] = []
    noted = _updates(model, before, updates, elsewhere)
    with noted, _backward_calls(passes), _calls(model, calls, autocast), _places(model, before, elsewhere):
        logged = dict(act() or {})
    traced = tuple(updates), tuple(calls), logged, True in autocast
    return StepTrace(before, parameters(model), *traced, buffers, random, bool(passes))


@contextmanager
def _updates(model: nn.Module, began: State, seen: list[Update], elsewhere: list[bool]) -> Generator[None]:
    """Notes each update of this model's parameters; several optimizers that share them make one update together.

    What an optimizer steps within its own step is part of it, and a closure that it calls again and again gives the
    gradient of one update: the first.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    running: list[Any] = []  # the optimizer that is within a step that was noted

    def note(optimizer: Any, *, repeats: bool = False) -> None:
        update = None if running else _update(optimizer, model, began)
        if update is not None:
            running.append(optimizer)
            update = update._replace(elsewhere=True in elsewhere, repeats=repeats)
            joined = bool(seen) and not seen[-1].names & update.names
            seen.append(_joined(seen.pop(), update) if joined else update)

    def before(optimizer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None or running:
            note(optimizer)
            return None

        def followed() -> Any:
            value = closure()  # which may make the gradients
            note(optimizer, repeats=True)
            return value

        return (arguments[0], followed), {key: value for key, value in named.items() if key != "closure"}

    def after(optimizer: Any, *_: Any) -> None:
        if running and running[0] is optimizer:
            running.clear()

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _update(optimizer: Any, model: nn.Module, began: State) -> Update | None:
    """What an optimizer is about to do to this model; None where that is nothing."""
    listed = {id(parameter) for parameter in tensors_of(optimizer)}
    own = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in listed]
    overflow = getattr(optimizer, "found_inf", None)
    if not own or (overflow is not None and bool(torch.as_tensor(overflow).any())):
        return None  # another model's, or told to leave the weights alone
    scale = getattr(optimizer, "grad_scale", None)
    divisor = 1.0 if scale is None else float(scale)
    gradients = {name: _dense(p.grad) / divisor for name, p in own if p.grad is not None}
    rates = tuple(float(group.get("lr") or 0.0) for group in optimizer.param_groups)
    decays = tuple(float(group.get("weight_decay") or 0.0) for group in optimizer.param_groups)
    is_adaptive = all("betas" in group for group in optimizer.param_groups)
    options = tuple({key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups)
    names = frozenset(name for name, _ in own)
    sparse = any(p.grad is not None and p.grad.is_sparse for _, p in own)
    return Update(
        gradients,
        rates,
        decays,
        is_adaptive,
        names,
        options,
        _moved(model, began),
        sparse,
        repeats=False,
        elsewhere=False,
    )


def _moved(model: nn.Module, began: State) -> State:
    """The weights that are elsewhere than where the step began."""
    now = {name: p.detach() for name, p in model.named_parameters() if name in began}
    return {name: tensor.clone() for name, tensor in now.items() if not _is_same(tensor, began[name])}


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


@contextmanager
def _backward_calls(seen: list[None]) -> Generator[None]:
    """Notes each backward pass that is asked for as such."""
    usual = torch.autograd.backward

    def noted(*arguments: Any, **named: Any) -> None:
        seen.append(None)
        usual(*arguments, **named)

    setattr(torch.autograd, "backward", noted)  # noqa: B010 - a plain assignment is another type
    try:
        yield
    finally:
        setattr(torch.autograd, "backward", usual)  # noqa: B010


@contextmanager
def _places(model: nn.Module, began: State, elsewhere: list[bool]) -> Generator[None]:
    """Notes of the outermost passes with gradients whether they run at other weights than the step began with."""
    inside: list[nn.Module] = []

    def enter(module: nn.Module, _: Any) -> None:
        if _in_backward():
            return
        if not inside and torch.is_grad_enabled() and len(elsewhere) < LOOKS:
            elsewhere.append(bool(_moved(module, _below(model, module, began))))
        inside.append(module)

    def leave(module: nn.Module, *_: Any) -> None:
        if inside and inside[-1] is module and not _in_backward():
            inside.pop()

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _below(model: nn.Module, module: nn.Module, began: State) -> State:
    """The weights of a module as the step began, by its own names of those that learn."""
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {own: began[names[id(p)]] for own, p in module.named_parameters() if names.get(id(p)) in began}


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
