"""What several micro-batches of a run show together: how much each weighs, how often rows stand in it, what mixes."""

from collections import defaultdict
from itertools import pairwise

from andon.door.masks import Counted, are_other_rows, shared
from andon.door.records import Run
from andon.door.sampling import Sample
from andon.door.statements.statement import FEW, Statement
from andon.verify.errors import NotApplicable, Unusual

ALIKE = 1e-3  # of a weight in float32
SAME_MASK = 0.6  # of a mask's places, where texts end at others
OTHERS = 0.4  # of them, that another row's mask has by chance
UNLIKE = 1.02  # times the targets of another micro-batch


def check_own_means(run: Run) -> None:
    """Each target of a step weighs the same, whichever of the step's micro-batches it is in.

    Asked where a step adds up the gradients of several backward passes begun at one line, whose losses are shown by
    their gradients to be cross-entropies, of unequal numbers of targets.

    Silent because each micro-batch's loss is right; only their sum is not what one batch of all of them would have.

    Look for a mean over each micro-batch's own targets, where the sum over the step's is to be divided by their count.

    Yellow alone: whoever wants each micro-batch to weigh the same does so.
    """
    uneven = _uneven_windows(run)
    if not uneven:
        raise NotApplicable("micro-batches of one step with unequal numbers of targets of a cross-entropy")
    for step, shown in uneven.items():
        counts, parts = [each.targets for each in shown], [each.weight * each.targets for each in shown]
        if max(parts) - min(parts) <= ALIKE * max(parts):
            raise Unusual(
                f"in step {step} a target weighs up to {max(counts) / min(counts):.3g} times as much as another: each "
                f"micro-batch is a mean of its own, and they have {', '.join(map(str, counts))} targets "
                f"({shown[0].line})"
            )


def check_rows(run: Run) -> None:
    """The rows of a batch are different ones.

    Asked of several batches that differ, each of rows of several numbers.

    Silent because the loss falls as ever: each step learns from a few examples, at the price of a whole batch.

    Look at an index that rows share, at `repeat` and `expand`, and at workers that draw from one seed.

    Yellow alone: whoever repeats examples on purpose does so.
    """
    seen = {each.mark: each for each in run.samples if each.mark and each.rows > 1}
    if len(seen) < FEW:
        raise NotApplicable(f"{FEW} captured batches of several rows that differ from each other")
    if all(each.times > 1 for each in seen.values()):
        first = next(iter(seen.values()))
        raise Unusual(
            f"in each of {len(seen)} batches every row stands several times: {first.times} times each of the "
            f"{first.rows // first.times} rows in the first"
        )


def check_mixed_rows(run: Run) -> None:
    """In eval mode what a model returns for a row does not depend on which other rows are in the batch.

    Asked where each of a pass's tensors has a row for each of the batch, and rows come again among others: so they are
    a batch, and no graph or set.

    Silent because training's batches are alike; a prediction then depends on its neighbors, and one alone is another.

    Look at the axis of a norm, a softmax or a mean, at `batch_first`, and at reshapes that move rows.

    Yellow alone: whoever compares the rows of a batch within the model does so.
    """
    if not run.samples or not _come_among_others(run):
        raise NotApplicable("a captured batch whose rows come again among others")
    for each in run.samples:
        if each.mixed:
            raise Unusual(
                f"in eval mode each row of the model's output {each.mixed} moves when any other row of its batch is "
                "exchanged"
            )


def check_same_mask(run: Run) -> None:
    """Which labels count is drawn anew for each batch.

    Asked of several micro-batches of other rows, in which less than half of the labels count, at scattered places that
    differ from row to row: a mask that is drawn, and no part of a fixed form.

    Silent because the loss falls as ever; what stands elsewhere in a row is never learned.

    Look for a generator that is seeded where a batch is made, and not once.

    Yellow alone.
    """
    asked = False
    for masks in _masks(run):
        pairs = [pair for pair in pairwise(masks) if are_other_rows(*pair)]
        own, others = ([shared(*pair, moved=moved) for pair in pairs] for moved in (0, 1))
        if len(pairs) < FEW or not all(each < OTHERS for each in others):
            continue
        asked = True
        if min(own) > SAME_MASK:
            raise Unusual(
                f"in {len(masks)} micro-batches of other rows the labels that count stand at the same places: of those "
                f"in one, {min(own):.0%} and more are in the same row of the next, and {max(others):.0%} at most one "
                "row further down"
            )
    if not asked:
        raise NotApplicable("micro-batches of other rows, in which labels count at scattered places")


def _masks(run: Run) -> list[list[Counted]]:
    """Of each optimizer and line, the labels that count in its micro-batches, in their order."""
    found: dict[tuple[int, str], list[Counted]] = defaultdict(list)
    for each in run.samples:
        if each.counted:
            found[each.optimizer, each.line].append(each.places)
    return list(found.values())


def _uneven_windows(run: Run) -> dict[int, list[Sample]]:
    """Micro-batches of unequal numbers of targets whose backward passes begin at one line, by their step."""
    found: dict[tuple[int, int, str], list[Sample]] = defaultdict(list)
    for each in run.samples:
        if each.weight > 0 and each.targets:
            found[each.step, each.optimizer, each.line].append(each)
    counts = {key: [each.targets for each in window] for key, window in found.items()}
    return {key[0]: window for key, window in found.items() if max(counts[key]) >= UNLIKE * min(counts[key])}


def _come_among_others(run: Run) -> bool:
    """Whether some row that is trained on comes again in a batch of other rows."""
    for passes in (each for each in run.passes.values() if each.trained):
        where: dict[int, frozenset[int]] = {}
        ends = [0]
        for size in passes.rows.batches:
            ends.append(ends[-1] + size)
        for begin, end in pairwise(ends):
            batch = frozenset(passes.rows.seen[begin:end])
            if len(batch) > 1 and any(len(where[row] & batch) <= len(batch) / 2 for row in batch if row in where):
                return True
            where |= dict.fromkeys(batch, batch)
    return False


STATEMENTS = (
    Statement("run.own_means", check_own_means),
    Statement("run.rows", check_rows),
    Statement("run.mixed_rows", check_mixed_rows),
    Statement("run.same_mask", check_same_mask),
)
