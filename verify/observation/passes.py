"""The passes of a step: what a model is called with, at which weights, and whether gradients come by `backward()`."""

import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.observation.parameters import State, moved_since

INTEGERS = (torch.int64, torch.int32)
LOOKS = 16  # passes of a step whose weights are compared with those it began with


class Call(NamedTuple):
    """One outermost call of a module with token ids, where a gradient was wanted."""

    inputs: dict[str, Tensor]  # the integers among its arguments, by name, and by position where they came by it
    random: Tensor  # torch's state before it
    training: bool


@contextmanager
def calls_noted(model: nn.Module, seen: list[Call], autocast: set[bool]) -> Generator[None]:
    """Notes the calls with token ids, and of each call of a module whether half precision was switched on."""

    def enter(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], *, outermost: bool) -> bool:
        autocast.add(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))
        inputs = dict(_integers({**dict(enumerate(arguments)), **named}))
        if inputs and outermost and torch.is_grad_enabled():
            inputs |= dict(_integers(_by_name(module, arguments)))
            seen.append(Call(inputs, torch.get_rng_state(), module.training))
        return bool(inputs)

    with _each_call(model, enter):
        yield


@contextmanager
def places_noted(model: nn.Module, began: State, elsewhere: list[bool]) -> Generator[None]:
    """Notes of the outermost passes with gradients whether they run at other weights than the step began with."""
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}

    def enter(module: nn.Module, *_: Any, outermost: bool) -> bool:
        if outermost and torch.is_grad_enabled() and len(elsewhere) < LOOKS:
            elsewhere.append(bool(moved_since(module, _of_module(module, names, began))))
        return True

    with _each_call(model, enter):
        yield


@contextmanager
def backward_noted(seen: list[None]) -> Generator[None]:
    """Notes each backward pass that is asked for as such."""
    usual = torch.autograd.backward

    def noted(*arguments: Any, **named: Any) -> None:
        seen.append(None)
        usual(*arguments, **named)

    setattr(torch.autograd, "backward", noted)  # noqa: B010 - a plain assignment is another type
    try:
        yield
    finally:
        setattr(torch.autograd, "backward", usual)  # noqa: B010 - the same


@contextmanager
def _each_call(model: nn.Module, enter: Callable[..., bool]) -> Generator[None]:
    """Calls `enter` before each module is called, with its arguments; what a checkpoint computes again was seen before.

    What `enter` returns says whether calls within this one are no longer outermost.
    """
    inside: list[nn.Module] = []

    def before(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not _in_backward() and enter(module, arguments, named, outermost=not inside):
            inside.append(module)

    def after(module: nn.Module, *_: Any) -> None:
        if inside and inside[-1] is module and not _in_backward():
            inside.pop()

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch's own checkpoint finds out the same way


def _of_module(module: nn.Module, names: Mapping[int, str], began: State) -> State:
    """The weights of a module as the step began, by its own names of those that learn; `names` has the model's."""
    return {own: began[names[id(p)]] for own, p in module.named_parameters() if names.get(id(p)) in began}


def _by_name(module: nn.Module, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments that came by position, by the names that the module's `forward` gives them."""
    try:
        return inspect.signature(module.forward).bind_partial(*arguments).arguments
    except (TypeError, ValueError):
        return {}


def _integers(arguments: Mapping[Any, Any]) -> Generator[tuple[str, Tensor]]:
    for key, value in arguments.items():
        if isinstance(value, Tensor) and value.dtype in INTEGERS and value.dim():
            yield str(key), value.detach().clone()
        elif isinstance(value, Mapping):
            yield from _integers(value)
        elif isinstance(value, tuple | list):
            yield from _integers(dict(enumerate(value)))
