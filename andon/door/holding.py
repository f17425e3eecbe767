"""Which tensors a run's optimizers hold, and which of them learn."""

from typing import TYPE_CHECKING

from andon.verify.observation.optimizers import tensors_of

if TYPE_CHECKING:
    from andon.door.records import Run


def held(run: "Run", least: int = 0) -> set[int]:
    """What optimizers hold that took so many steps, by id."""
    stepped = (each for each in run.optimizing.values() if each.steps >= least)
    return {id(p) for each in stepped for p in tensors_of(each.optimizer)}


def learned(run: "Run") -> set[int]:
    """What optimizers hold, and had a gradient in some step that was looked at, by id."""
    seen = (each for each in run.optimizing.values() if each.idle is not None)
    return {id(p) for each in seen for p in tensors_of(each.optimizer) if id(p) not in (each.idle or {})}
