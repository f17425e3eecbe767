"""Models that learn to tell noise: at which levels they are shown it."""

from andon.door.records import Run
from andon.door.statements.statement import FEW, Statement
from andon.verify.errors import NotApplicable, Unusual


def check_one_level(run: Run) -> None:
    """Where a model learns to tell noise, the rows of a batch have levels of their own.

    Asked where in several sampled micro-batches what the model returns is compared with standard normal numbers: their
    mean, variance and distribution are those of noise, within what their count allows, and they are others each time. A
    level is what the model is given one number a row of, of several rows, and that differs from batch to batch.

    Silent because over many batches all levels come; each step follows one alone, and its gradient is noisier by far.

    Look at the size that the steps, or levels, are drawn with: one for each row.

    Yellow alone.
    """
    shown = {each.noise: each.levels for each in run.samples if each.noise and each.levels}
    names = set.intersection(*(set(levels) for levels in shown.values())) if len(shown) >= FEW else set[str]()
    values = {name: [levels[name] for levels in shown.values()] for name in names}
    moving = {name: found for name, found in values.items() if len(set(found)) > 1 or None in found}
    if not moving:
        raise NotApplicable(
            f"{FEW} captured micro-batches in which what the model returns is compared with standard normal noise, and "
            "a number for each row that the model is given"
        )
    if not any(None in found for found in moving.values()):
        name, found = next(iter(sorted(moving.items())))
        numbers = ", ".join(f"{each:g}" for each in found if each is not None)
        raise Unusual(
            f"in each of {len(found)} micro-batches all rows have one number in {name!r}, that the model is given to "
            f"tell noise, and it differs from batch to batch: {numbers}"
        )


STATEMENTS = (Statement("run.one_level", check_one_level),)
