"""Adapters, and the weights that they are merged into."""

from andon.door.records import Run
from andon.door.statements.statement import Statement, at
from andon.verify.errors import NotApplicable, Unusual

SINGLE, HALF = 1e-3, 5e-2  # of what a model says: rounding in single precision, and in half


def check_merged(run: Run) -> None:
    """A model says the same before and after an adapter is merged into its weights.

    Asked where a matrix that no optimizer trains changes, with no step between, by a multiple of the product of two
    matrices that one trains, and where rows are given to the model in eval mode without gradients before it and after.

    Silent because what is merged is near what was trained: it is only worse than what was evaluated before it.

    Look at the scale of the product, at its transposition, at whether it is merged twice, and at what still adds it.

    Yellow alone: whoever merges a part of an adapter, or evaluated without it before, does so.
    """
    if not run.merges:
        raise NotApplicable("an adapter that is merged into weights, with the same rows evaluated before and after")
    apart = [each for each in run.merges if each.apart > (HALF if each.half else SINGLE)]
    if apart:
        worst = max(apart, key=lambda each: each.apart)
        raise Unusual(
            f"after weights of {worst.kind} were changed by a multiple of the product of two trained matrices, with no "
            f"step in between, it says something else of the same rows{at(worst.place)}: {worst.apart:.2g} of its "
            f"size, in {len(apart)} of {len(run.merges)} passes"
        )


STATEMENTS = (Statement("run.merged", check_merged),)
