"""The same function of torch's, with a note before or after it."""

import functools
from collections.abc import Callable
from typing import Any


def around(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put `make(original)` in the place of `owner.name`, under its name and signature."""
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))


def after(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Note a call of `owner.name` once it has returned, with what it was given by position."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            note(*args)
            return result

        return noted

    around(owner, name, make)
