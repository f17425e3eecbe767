"""The moment by which checks are to end, looked at before each forward pass of a module: so inside every check."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from torch.nn.modules.module import register_module_forward_pre_hook


class OutOfTime(BaseException):
    """The moment has passed within a check. No Exception: those are user code's own, and are explained."""


@contextmanager
def ending(moment: float | None) -> Generator[None]:
    """Within `with`, any module that is called after this moment of `time.monotonic` raises OutOfTime; None is never.

    Raises:
        OutOfTime: it was.
    """
    if moment is None:
        yield
        return

    def look(*_: object) -> None:
        if time.monotonic() >= moment:
            raise OutOfTime

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
