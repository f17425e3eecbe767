"""A line of the table of statements, and words that they share."""

from collections.abc import Callable
from typing import Any, NamedTuple

from andon.door.moments import RARE
from andon.door.places import Place
from andon.door.records import Optimizing, Passes, Run
from andon.verify.errors import NotApplicable

FEW = 3  # windows in which a thing must happen before it is no accident


class Statement(NamedTuple):
    """A line of the table."""

    name: str  # run.what
    function: Callable[[Any], None]  # of a Run; of a Resumption, for what is said of that


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


def now_and_then(run: Run) -> list[Passes]:
    """Passes that no backward pass follows, and that come with few of the steps: an evaluation's, no teacher's."""
    found = [each for each in run.passes.values() if not each.trained]
    return [each for each in found if 0 < each.stretches < RARE * run.steps and not each.moments.of_training]
