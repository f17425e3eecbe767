"""What numbers were standardized by: those that are trained on, or those that a model is judged by as well.

Legend: R rows, F features.
"""

from collections.abc import Iterable

import numpy as np

from andon.door.records import Run
from andon.door.statements.statement import Statement, now_and_then
from andon.verify.errors import NotApplicable, Unusual

FEWEST = 32  # rows
EXACT = 1e-4  # of a standard deviation: what is left of a mean that was subtracted
OFF = 20 * EXACT  # what no rounding explains
HALF = 0.5
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


STATEMENTS = (Statement("run.standards", check_standards),)
