"""A function of torch's with another in its place, for a while."""

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

Function = Callable[..., Any]


@contextmanager
def replaced(owner: Any, name: str, make: Callable[[Function], Function]) -> Generator[None]:
    """`make(original)` in the place of `owner.name`, under its name and signature."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))
    try:
        yield
    finally:
        setattr(owner, name, original)
