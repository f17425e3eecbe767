"""A function of torch's with another in its place, for good or for a while."""

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

Function = Callable[..., Any]


def around(owner: Any, name: str, make: Callable[[Function], Function]) -> None:
    """Put `make(original)` in the place of `owner.name`, under its name and signature."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Function], Function]) -> Generator[None]:
    """The same, until the context ends."""
    original = getattr(owner, name)
    around(owner, name, make)
    try:
        yield
    finally:
        setattr(owner, name, original)
