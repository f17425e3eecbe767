"""A line of the table of statements, and words that they share."""

from collections.abc import Callable
from typing import NamedTuple

from andon.door.places import Place
from andon.door.records import Optimizing, Run
from andon.verify.errors import NotApplicable

FEW = 3  # windows in which a thing must happen before it is no accident


class Statement(NamedTuple):
    """A line of the table."""

    name: str  # run.what
    function: Callable[[Run], None]


def at(place: Place | None) -> str:
    """Where in the script, for a message; nothing where it is not known."""
    return f" ({place})" if place else ""


def stepping(run: Run, least: int = FEW) -> list[Optimizing]:
    """The optimizers that took steps.

    Raises:
        NotApplicable: none took that many.
    """
    found = [each for each in run.optimizing.values() if each.steps >= least]
    if not found:
        raise NotApplicable(f"an optimizer that takes {least} steps")
    return found
