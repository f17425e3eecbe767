"""Models that learn to tell noise: at which levels they are shown it."""

from collections.abc import Sequence
from itertools import pairwise

from andon.door.records import Run
from andon.door.sampling import Sample
from andon.door.statements.statement import FEW, Statement
from andon.verify.errors import NotApplicable, Unusual


def check_one_level(run: Run) -> None:
    """Where a model learns to tell noise, the rows of a batch have levels of their own.

    Asked where in several sampled micro-batches what the model returns is compared with standard normal numbers: their
    mean, variance and distribution are those of noise, within what their count allows, and they are others each time;
    or where all that the model is given is mixed of two tensors that the loss is made of, in shares that differ from
    batch to batch, as a flow's is. A level is what the model is given one number a row of, of several rows, and that
    differs from batch to batch, and goes up and down.

    Silent because over many batches all levels come; each step follows one alone, and its gradient is noisier by far.

    Look at the size that the steps, or levels, are drawn with: one for each row.

    Yellow alone.
    """
    shown = list({each.noise: each for each in run.samples if each.noise and each.levels}.values())
    told = len(shown) >= FEW
    shown = shown if told else _of_mixtures(run)
    names = set.intersection(*(set(each.levels) for each in shown)) if len(shown) >= FEW else set[str]()
    values = {name: [each.levels[name] for each in shown] for name in names}
    moving = {name: found for name, found in values.items() if (told and None in found) or _turns(found)}
    if not moving:
        raise NotApplicable(
            f"{FEW} captured micro-batches in which what the model returns is compared with standard normal noise, or "
            "what it is given is mixed of two parts of the loss, and a number for each row that the model is given"
        )
    if not any(None in found for found in moving.values()):
        name, found = next(iter(sorted(moving.items())))
        numbers = ", ".join(f"{each:g}" for each in found if each is not None)
        raise Unusual(
            f"in each of {len(found)} micro-batches all rows have one number in {name!r}, that the model is given to "
            f"tell noise, and it differs from batch to batch: {numbers}"
        )


def _of_mixtures(run: Run) -> list[Sample]:
    """Micro-batches of which each is mixed in a share of its own, to three digits."""
    return list({f"{each.share:.3g}": each for each in run.samples if each.share is not None and each.levels}.values())


def _turns(found: Sequence[float | None]) -> bool:
    """Whether numbers go up and down."""
    numbers = [each for each in found if each is not None]
    steps = [other - one for one, other in pairwise(numbers)] if len(numbers) == len(found) else []
    return any(each > 0 for each in steps) and any(each < 0 for each in steps)


STATEMENTS = (Statement("run.one_level", check_one_level),)
