"""Models that a script calls by a method of theirs, `model.training_loss(batch)`: such a call is their pass."""

import inspect
import sys
from types import CodeType, FrameType
from typing import Any, NamedTuple

from torch import nn

FEW = 0.9  # of a model's parameters: a module with more is what is trained, whoever calls it
NO_CALLS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
DEEP = 64  # frames that are looked at


class Method(NamedTuple):
    """A function of a model's class, which is running."""

    model: nn.Module
    owner: type  # the class that defines it
    name: str


def method_around(module: nn.Module) -> Method | None:
    """The innermost method that is running of a model that this module is a small part of."""
    own = sum(p.numel() for p in module.parameters())
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - how the standard library's logging does it
    for _ in range(DEEP):
        if frame is None:
            return None
        model = _first_argument(frame)
        if isinstance(model, nn.Module) and model is not module and any(module is each for each in model.modules()):
            owner = _owner(type(model), frame.f_code)
            if owner is not None and own < FEW * sum(p.numel() for p in model.parameters()):
                return Method(model, owner, frame.f_code.co_name)
        frame = frame.f_back
    return None


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
