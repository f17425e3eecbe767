"""Models that a script calls by a method of theirs, `model.training_loss(batch)`: such a call is their pass."""

import inspect
import sys
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils import _contextlib

FEW = 0.9  # of a model's parameters: a module with more is what is trained, whoever calls it
NO_CALLS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
DEEP = 64  # frames that are looked at
NO_GRADIENTS, EVALUATES = {"no_grad", "inference_mode"}, {"eval", "train"}  # what sets a mode


class Method(NamedTuple):
    """A function of a model's class, which is running."""

    model: nn.Module
    owner: type  # the class that defines it
    name: str


def method_around(module: nn.Module) -> Method | None:
    """The innermost method that is running of a model that this module is a small part of.

    A constructor is none: its model is still being made. One that has set a mode is none: where it is called, the
    mode is another.
    """
    own = _size(module)
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - how the standard library's logging does it
    for _ in range(DEEP):
        if frame is None:
            return None
        model = _first_argument(frame)
        if isinstance(model, nn.Module) and model is not module and any(module is each for each in model.modules()):
            if frame.f_code.co_name == "__init__" or _has_set_a_mode(model, frame.f_code):
                return None
            owner = _owner(type(model), frame.f_code)
            if owner is not None and own < FEW * _size(model):
                return Method(model, owner, frame.f_code.co_name)
        frame = frame.f_back
    return None


def _size(model: nn.Module) -> int:
    """Its numbers; a lazy parameter has none yet."""
    return sum(p.numel() for p in model.parameters() if not is_lazy(p))


def _has_set_a_mode(model: nn.Module, code: CodeType) -> bool:
    """Whether a running function, or torch's decorator on it, is why there are no gradients or the model evaluates."""
    own, names = getattr(type(model), code.co_name, None), set(code.co_names)
    if inspect.isfunction(own) and _is_a_context(inspect.unwrap(own, stop=_is_a_context)):
        return True
    without = not torch.is_grad_enabled() and bool(names & NO_GRADIENTS)
    return without or "set_grad_enabled" in names or (not model.training and bool(names & EVALUATES))


def _is_a_context(function: Any) -> bool:
    """Whether it is what torch's contexts, used as decorators, make."""
    return inspect.isfunction(function) and function.__code__.co_filename == _contextlib.__file__


def _first_argument(frame: FrameType) -> Any:
    code = frame.f_code
    if not code.co_argcount or code.co_flags & NO_CALLS:
        return None
    return frame.f_locals.get(code.co_varnames[0])


def _owner(kind: type, code: CodeType) -> type | None:
    """The class, of those that a class is made of, whose function of that name this code is."""
    for each in kind.__mro__:
        own = vars(each).get(code.co_name)
        if inspect.isfunction(own) and getattr(inspect.unwrap(own), "__code__", None) is code:
            return each
    return None
