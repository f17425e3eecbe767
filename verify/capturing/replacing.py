"""A function of torch's with another in its place, for good or for a while."""

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

Function = Callable[..., Any]


def around(owner: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Put `make(original)` in the place of `owner.name`, under its name and signature."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(_beside(original, make(original))))


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Function], Function]) -> Generator[None]:
    """The same, until the context ends."""
    original = getattr(owner, name)
    around(owner, name, make)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _beside(original: Function, noted: Function) -> Function:
    """A call of `noted` among the names of the original's module: TorchScript compiles its source with them."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return noted(*args, **kwargs)

    names = getattr(inspect.unwrap(original), "__globals__", None)
    return call if names is None else FunctionType(call.__code__, names, closure=call.__closure__)
