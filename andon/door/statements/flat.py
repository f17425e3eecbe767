"""Scores of classes that hardly differ, however long they are trained."""

import math

from andon.door.flatness import FIRST
from andon.door.records import Run
from andon.door.statements.statement import Statement
from andon.verify.errors import NotApplicable, Unusual

LOOKS = 3
FLAT = 0.2  # between the highest and the lowest score of a row
GROWS = 0.8  # of how a spread that grows with each step alike does


def check_flat(run: Run) -> None:
    """Scores that a cross-entropy over classes is given come to differ while they are trained.

    Asked of a run of some dozens of steps at a rate above zero, whose loss is a cross-entropy over three classes or
    more: now and then, from step 30 on, at some rows. Found where at no look, of no row and of none of the loss's
    cross-entropies, the highest and the lowest score are far apart, and they do not come apart with each step alike.

    Silent because the loss falls at first, to a little below the logarithm of the number of classes; what it cannot
    reach is not seen. The order of the scores may be right by then.

    Look at a temperature that scores are multiplied by instead of divided, or that normalized vectors lack.

    Yellow alone: labels may say nothing of the input, and an adversary may be meant to find nothing.
    """
    looks = run.flatness.looks
    moved = max((sum(max(rates, default=0) > 0 for rates in each.rates) for each in run.optimizing.values()), default=0)
    if len(looks) < LOOKS or moved < FIRST:
        raise NotApplicable(
            f"a cross-entropy over three classes or more, in a run with {LOOKS} looks at it after {FIRST} steps"
        )
    first, last = looks[0], looks[-1]
    grows = last.spread > GROWS * first.spread * last.steps / first.steps
    if all(each.spread < FLAT for each in looks) and not grows:
        raise Unusual(
            f"the scores that a cross-entropy over {last.classes} classes is given lie within {last.spread:.3g} of "
            f"each other in each row after {last.steps} steps, and within {first.spread:.3g} after {first.steps}: its "
            f"loss, {math.log(last.classes):.4g} where they are all alike, cannot fall by more than that"
        )


STATEMENTS = (Statement("run.flat", check_flat),)
