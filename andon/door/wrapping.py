"""A note of each call of a function of torch's."""

from collections.abc import Callable
from typing import Any

from andon.verify.capturing.replacing import Function, around


def after(owner: Any, name: str, note: Callable[..., None]) -> None:
    """Note a call of `owner.name` once it has returned, with what it was given by position."""

    def make(original: Function) -> Function:
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            note(*args)
            return result

        return noted

    around(owner, name, make)
