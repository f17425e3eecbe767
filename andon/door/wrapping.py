"""The same function of torch's, with a note before or after it."""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any


def around(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `make(original)` in the place of `owner.name`, under its name and signature."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(_beside(original, make(original))))


def _beside(original: Callable[..., Any], noted: Callable[..., Any]) -> Callable[..., Any]:
    """A call of `noted` among the names of the original's module: TorchScript compiles its source with them."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return noted(*args, **kwargs)

    names = getattr(inspect.unwrap(original), "__globals__", None)
    return call if names is None else FunctionType(call.__code__, names, closure=call.__closure__)


def after(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Note a call of `owner.name` once it has returned, with what it was given by position."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            note(*args)
            return result

        return noted

    around(owner, name, make)
