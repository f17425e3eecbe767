"""How numbers were standardized: by those that are trained on alone, and alike where a model is judged.

Legend: R rows, F features.
"""

from collections.abc import Iterable

import numpy as np

from andon.door.records import Passes, Run
from andon.door.rows import Size
from andon.door.statements.statement import Statement, at, now_and_then
from andon.verify.errors import NotApplicable, Unusual

FEWEST = 32  # rows
EXACT = 1e-4  # of a standard deviation: what is left of a mean that was subtracted
OFF = 20 * EXACT  # what no rounding explains
HALF = 0.5
TIMES = 3.0  # deviations that are so far apart are two scales
SEVERAL = 4  # batches
Table = dict[int, np.ndarray]  # rows (F,) by their fingerprints


def check_standards(run: Run) -> None:
    """Means and deviations that features are standardized by come from the rows that are trained on, and no others.

    Asked of tables (R, F) of which all rows are known: those that are trained on, which come again, and others, which
    are only evaluated on. Told by columns that have mean 0 and deviation 1 over all rows together, to four digits, and
    over those that are trained on have not.

    Silent because figures look a little better than they will be.

    Look for a scaler's `fit` before the split, and for `mean` and `std` of the whole table.

    Yellow alone: numbers from elsewhere may have been standardized before.
    """
    trained = _together(each.rows.table for each in run.passes.values() if each.trained and _come_again(each.rows.seen))
    others = _together(each.rows.table for each in now_and_then(run))
    others = {key: row for key, row in others.items() if key not in trained}
    widths = {len(row) for row in (*trained.values(), *others.values())}
    if len(trained) < FEWEST or len(others) < FEWEST or len(widths) > 1:
        raise NotApplicable("rows (R, F) that come again, and others that the model is evaluated on")
    own, all_rows = (np.stack(list(each.values())).astype(np.float64) for each in (trained, trained | others))
    varies = own.std(0) > 0
    told = varies & _is_standard(all_rows, EXACT) & ~_is_standard(own, OFF)
    if told.sum() > HALF * varies.sum():
        raise Unusual(
            f"{told.sum()} of {varies.sum()} features have mean 0 and deviation 1 over the {len(trained)} rows that "
            f"are trained on and {len(others)} that the model is only evaluated on, and not over the former alone: "
            "they were standardized together"
        )


def _come_again(seen: list[int]) -> bool:
    return len(seen) > len(set(seen))


def _together(tables: Iterable[Table]) -> Table:
    return {key: row for table in tables for key, row in table.items()}


def _is_standard(rows: np.ndarray, within: float) -> np.ndarray:
    """(F,): mean 0 and deviation 1, divided by the number of rows or by one less."""
    deviations = rows.std(0), rows.std(0, ddof=1)
    return (abs(rows.mean(0)) <= within) & (np.minimum(*(abs(each - 1) for each in deviations)) <= within)


def check_scale(run: Run) -> None:
    """What a model is judged by is scaled as what it trains on: its numbers are of the same size.

    Asked of numbers that are no whole ones: the first of each pass in training, and in an evaluation whose rows come
    again in the next one, so that they are data and nothing that was generated.

    Silent because an evaluation at another scale still gives a figure, a worse one.

    Look at the transforms, means and deviations that each of the two is given.

    Yellow alone: a model may be tested on data of another kind.
    """
    trained = [each.rows.size for each in run.passes.values() if each.trained and each.rows.size.batches >= SEVERAL]
    judged = [each for each in now_and_then(run) if each.rows.size.batches >= SEVERAL and _comes_in_each(each)]
    if not trained or not judged:
        raise NotApplicable("numbers that are trained on, and an evaluation on the same ones each time")
    for each in judged:
        size = each.rows.size
        if all(_is_another_scale(size, other) for other in trained):
            raise Unusual(
                f"what the model is evaluated on{at(each.chain[0] if each.chain else None)} has mean {size.mean:.3g} "
                f"and deviation {size.deviation:.3g}, what it trains on {trained[0].mean:.3g} and "
                f"{trained[0].deviation:.3g}"
            )


def _comes_in_each(passes: Passes) -> bool:
    """Whether most rows of several stretches come again."""
    return passes.stretches > 1 and len(set(passes.rows.seen)) <= (1 - HALF / 2) * len(passes.rows.seen)


def _is_another_scale(one: Size, other: Size) -> bool:
    low, high = sorted((one.deviation, other.deviation))
    return high > TIMES * low or abs(one.mean - other.mean) > TIMES * high


STATEMENTS = (Statement("run.standards", check_standards), Statement("run.scale", check_scale))
