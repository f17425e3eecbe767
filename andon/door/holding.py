"""Which tensors a run's optimizers hold."""

from andon.door.records import Run
from andon.verify.observation.optimizers import tensors_of


def held(run: Run, least: int = 0) -> set[int]:
    """What optimizers hold that took so many steps, by id."""
    stepped = (each for each in run.optimizing.values() if each.steps >= least)
    return {id(p) for each in stepped for p in tensors_of(each.optimizer)}
