"""What is known of a file that a script read."""

import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from andon.door.places import Place


@dataclass
class Saved:
    """The state of an optimizer in a file."""

    groups: int
    parameters: int
    shapes: list[tuple[int, ...]]  # of its moments, in the order of their parameters
    rates: tuple[float, ...] = ()  # of its groups


class Written(NamedTuple):
    """How far this process was when it wrote a file."""

    given: int  # passes
    steps: dict[int, int]  # of each optimizer, by its id


@dataclass
class Loaded:
    """One file that was read, and what became of it."""

    place: Place | None
    name: str
    own: bool  # this process wrote it, and took no step since
    optimizers: list[Saved]
    epoch: int  # of the furthest schedule in it
    written: Written | None = None  # by this process
    tensors: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)
    models: list[Any] = field(default_factory=list)  # that its weights were put into
    optimizer_used: bool = False
    schedule_used: bool = False

    def holds(self, tensor: Any) -> bool:
        """Whether a tensor is one of the file's."""
        known = self.tensors.get(id(tensor))
        return known is not None and known() is tensor


class Resumed(NamedTuple):
    """What an optimizer began with, whose weights came from a file."""

    file: Loaded
    empty: bool  # it has no moments
    epoch: int | None  # of the furthest of its schedules; None where it has none


class GoesOn(NamedTuple):
    """An optimizer that was given its state of a file."""

    file: Loaded
    saved: Saved
    steps: int  # that it had taken
    given: int  # passes before


class Lost(NamedTuple):
    """A state whose names a module does not have, where it was told not to mind."""

    place: Place | None
    module: str  # its type
    names: frozenset[str]  # of the state
    missing: int  # of the module
    unknown: tuple[str, ...]  # the first of the state that the module does not have
    owner: int  # the module's id
    prefixed: int  # how many of the state's are the module's, but for what one of the two begins with
