"""What a line of the table of checks says."""

from collections.abc import Callable
from typing import NamedTuple

from andon.verify.subject import Subject


class Check(NamedTuple):
    """A line of the table."""

    name: str  # area.what
    function: Callable[[Subject], str | None]
    needs: tuple[str, ...] = ()  # factories beyond model, batch and loss
    tier: int = 1  # 1 milliseconds, 2 seconds, 3 longer
