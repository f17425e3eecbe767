"""Which rows a run trains on."""

from itertools import accumulate

from andon.door.records import Passes, Run
from andon.door.statements.statement import Statement, now_and_then
from andon.verify.errors import NotApplicable, Unusual

SEVERAL = 3  # batches of an epoch
FEWEST = 64  # rows before an order is one
BATCHES = 8  # of an epoch
DISTINCT = 0.5  # share of a pass's rows that must differ, or rows say nothing
SHARED = 0.2
HALF = 0.5
UNLIKE, NEARLY = 0.98, 0.9


def check_order(run: Run) -> None:
    """Rows come in another order each epoch.

    Not asked where a pass is given the state that the one before returned: text goes on from row to row then.

    Silent because the loss falls all the same; a fixed order shows as a wave in it, and as a slightly worse end.

    Look for `shuffle=True`, a sampler's `set_epoch`, and a generator that is seeded anew each epoch.

    Yellow alone: whoever reads a stream in its order does so.
    """
    asked = False
    for passes in _trained(run):
        seen = passes.rows.seen
        if len(seen) < FEWEST or len(passes.rows.batches) < BATCHES or seen[0] not in seen[FEWEST:]:
            continue
        period = seen.index(seen[0], FEWEST)
        again = seen[period : 2 * period]
        if passes.carrying.carried > HALF * passes.carrying.passes:
            continue
        if len(again) < FEWEST or len(set(seen[:period])) < DISTINCT * period or _batches(passes, period) < SEVERAL:
            continue
        asked = True
        if again == seen[: len(again)]:
            raise Unusual(
                f"after {period} rows the model was given the same rows in the same order again "
                f"({len(again)} of {len(again)} alike), at {passes.chain[0] if passes.chain else 'its call'}"
            )
    if not asked:
        raise NotApplicable("rows that come again, with no state carried between passes: more than one epoch")


def check_held_out(run: Run) -> None:
    """Rows that a model is evaluated on are not those that it trains on.

    Silent because the figures look better.

    Not asked where rows that are evaluated on are alike among themselves, unless nearly all were trained on.

    Look at how the data are split, and whether the split comes before windows, shuffling and copies.

    Yellow alone: whoever also reports the training set's figures does so.
    """
    trained = {row for passes in _trained(run) for row in passes.rows.seen}
    shared: dict[int, tuple[int, int, Passes]] = {}
    for place, passes in enumerate(now_and_then(run)):
        rows = set(passes.rows.seen)
        if _repeats(passes) and len(rows & trained) < NEARLY * len(rows):
            continue
        if len(rows) >= FEWEST and len(rows) > DISTINCT * len(passes.rows.seen) / max(passes.stretches, 1):
            shared[place] = len(rows & trained), len(rows), passes
    if not shared or not trained:
        raise NotApplicable("passes without a backward pass, on rows enough")
    both, all_rows, passes = min(shared.values(), key=lambda each: each[0] / each[1])
    if both > SHARED * all_rows:
        raise Unusual(
            f"{both} of {all_rows} rows that the model is evaluated on "
            f"({passes.chain[0] if passes.chain else ''}) were trained on in this run"
        )


def _batches(passes: Passes, rows: int) -> int:
    """Of how many batches the first rows are: one that comes again at once is no epoch."""
    return sum(1 for end in accumulate(passes.rows.batches) if end <= rows)


def _repeats(passes: Passes) -> bool:
    """Whether rows of one stretch are alike by their nature: then they are found among others, too."""
    one = passes.rows.seen[: len(passes.rows.seen) // max(passes.stretches, 1)]
    return len(set(one)) < UNLIKE * len(one)


def _trained(run: Run) -> list[Passes]:
    return [each for each in run.passes.values() if each.trained]


STATEMENTS = (Statement("run.order", check_order), Statement("run.held_out", check_held_out))
