"""What is asked of a captured micro-batch, beside the checks of a Subject: each a function `Captured -> None`."""

from collections.abc import Callable
from typing import NamedTuple

from andon.door.capture import Captured


class Question(NamedTuple):
    """A line of the table."""

    name: str  # run.what
    function: Callable[[Captured], None]


QUESTIONS: tuple[Question, ...] = ()
