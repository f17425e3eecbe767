"""Whether rows are drawn from a world in which they come again by chance: there is no split, then, to leak."""

from itertools import groupby, pairwise

from andon.door.records import Passes, Run

FEW = 4  # rows that came again, after which others are still new
NEW = 0.6  # of all rows, that are new after those: an epoch has none, and a second fold a half at most
SHARED = 0.5  # of the rows of an evaluation, that the next one gives: one of held-out rows gives the same


def is_drawn(run: Run) -> bool:
    """Whether rows that are trained on come again while others are still new, as they do not by epochs."""
    every = sorted(each for passes in run.passes.values() if passes.trained for each in passes.rows.by_batch())
    known, batches, again, new = set[int](), set[frozenset[int]](), 0, 0
    for _, rows in every:
        batch = frozenset(rows)
        if batch in batches:  # several steps on one
            continue
        batches.add(batch)
        new += len(batch - known) if again >= FEW else 0
        again += len(rows) - len(batch - known)
        known |= batch
    return new > NEW * len(known)


def is_drawn_anew(evaluated: Passes, begun: int) -> bool:
    """Whether each evaluation gives other rows than the one before, to the same model: folds have one each."""
    numbers = zip(evaluated.rows.by_batch(), evaluated.rows.steps, strict=True)
    late = [(steps, rows) for (place, rows), steps in numbers if place >= begun]
    moments = [{row for _, rows in batches for row in rows} for _, batches in groupby(late, key=lambda each: each[0])]
    pairs = list(pairwise(moments)) if len(set(evaluated.rows.models)) == 1 else []
    return bool(pairs) and all(len(one & other) < SHARED * min(len(one), len(other)) for one, other in pairs)
