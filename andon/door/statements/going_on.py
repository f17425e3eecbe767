"""What goes on where an optimizer is given its state of a file that the same run has written: rates, and data."""

import itertools
from collections.abc import Sequence

from andon.door.loaded import GoesOn
from andon.door.records import Optimizing, Run
from andon.door.statements.resuming import is_of
from andon.door.statements.statement import Statement, at
from andon.verify.errors import NotApplicable, Unusual

LOOK = 4  # steps, or batches, that show a beginning
MOST = 8  # of them that are looked at
APART = 3.0  # times: a rate that is no neighbor of the one that was saved
SMOOTH = 1.5  # times: rates of neighboring steps
SAME = 1e-6
ROWS = 64  # before there is something to go on from
DIFFERENT = 0.98  # of the rows before a save: windows that are drawn may meet by chance

Rates = Sequence[tuple[float, ...]]


def check_resumed_rate(run: Run) -> None:
    """An optimizer that is given its state of a file goes on at the rate that the file holds, not as the run began.

    Asked of files that this run has written, after steps at rates that moved smoothly. Said where the first rate is
    more than 3 times another, and the rates are those with which the run began, step by step.

    Silent because a rate that begins anew only trains otherwise: the warm-up comes twice, and the end never.

    Look at what the schedule counts: steps since the run began, or since this process did.

    Yellow alone: whoever begins another round of training means to.
    """
    asked = False
    for each in run.optimizing.values():
        for goes_on in each.goes_on:
            after, before = each.rates[goes_on.steps :][:MOST], _before(run, goes_on)
            if min(len(after), len(before)) < LOOK:
                continue
            asked = True
            for group, saved in enumerate(goes_on.saved.rates):
                if _begins_anew(after, before, group, saved):
                    raise Unusual(
                        f"{goes_on.file.name} was read{at(goes_on.file.place)}, which holds a rate of {saved:.3g} of "
                        f"{type(each.optimizer).__name__}{at(each.made)}; its first step after that was made at "
                        f"{after[0][group]:.3g}, and the rates are those with which the run began"
                    )
    if not asked:
        raise NotApplicable("an optimizer that is given its state of a file which the run wrote after some steps")


def check_resumed_rows(run: Run) -> None:
    """Where training goes on from a file, the data go on, too: the batches are not the first ones of the run again.

    Asked of files that this run has written after as many batches, whose optimizer's state is loaded, where hardly a
    row had come again before, so that no epoch had ended. Not where rows come again after a part of the batches before
    the save, which were whole epochs then; nor where state is carried from pass to pass, in a text that keeps its
    order.

    Silent because rows that are known already teach as well; the rest of the data is never seen.

    Look at the generator's state, the sampler's epoch, and how many batches are skipped.

    Yellow alone: whoever repeats an epoch in its order does so.
    """
    asked = False
    for goes_on in (one for each in run.optimizing.values() for one in each.goes_on):
        first, after = _batches(run, goes_on)
        count = min(MOST, len(first), len(after))
        if count < LOOK or not _is_one_way(first) or _has_ended(first, after) or _is_carried(run):
            continue
        asked = True
        if after[:count] == first[:count]:
            raise Unusual(
                f"{goes_on.file.name} was read{at(goes_on.file.place)}, written after {len(first)} batches; the "
                f"{count} batches after that are the first ones of the run again, in their order"
            )
    if not asked:
        raise NotApplicable("an optimizer that is given its state of a file which the run wrote within an epoch")


def _before(run: Run, goes_on: GoesOn) -> Rates:
    """The rates of the steps before the save, of the optimizer that was saved; of none where it is not known."""
    written = goes_on.file.written
    fit = [each for each in run.optimizing.values() if written and is_of(goes_on.saved, each)]
    known = [each.rates[: written.steps.get(key, 0)] for key, each in _by_id(fit) if written]
    return next((rates for rates in known if rates and _are_near(rates[-1], goes_on.saved.rates)), [])


def _by_id(several: list[Optimizing]) -> list[tuple[int, Optimizing]]:
    return [(id(each.optimizer), each) for each in several]


def _are_near(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(_apart(*pair) <= SMOOTH for pair in zip(one, other, strict=True))


def _begins_anew(after: Rates, before: Rates, group: int, saved: float) -> bool:
    """Whether a group's rates are those of the beginning, far from where they were."""
    last = [each[group] for each in before[-MOST:]]
    smooth = all(_apart(one, other) <= SMOOTH for one, other in itertools.pairwise(last))
    pairs = [(one[group], other[group]) for one, other in zip(after, before, strict=False)]
    again = all(abs(one - other) <= SAME * abs(other) for one, other in pairs)
    return smooth and again and saved > 0 and _apart(after[0][group], saved) > APART


def _apart(one: float, other: float) -> float:
    """How many times the larger is the smaller."""
    small, large = sorted((one, other))
    return 1.0 if small == large else large / small if small > 0 else float("inf")


def _batches(run: Run, goes_on: GoesOn) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Those of training before the save, and those after the state was loaded, in their order."""
    written = goes_on.file.written
    every = sorted(each for passes in run.passes.values() if passes.trained for each in passes.rows.by_batch())
    first = [rows for place, rows in every if written is not None and place < written.given]
    return first, [rows for place, rows in every if place >= goes_on.given]


def _is_one_way(batches: list[tuple[int, ...]]) -> bool:
    """Whether rows are many, and hardly one comes again."""
    rows = [row for batch in batches for row in batch]
    return len(rows) >= ROWS and len(set(rows)) >= DIFFERENT * len(rows)


def _has_ended(first: list[tuple[int, ...]], after: list[tuple[int, ...]]) -> bool:
    """Whether batches come again after the load, by a period of which the batches before the save are whole ones."""
    period = after.index(after[0], 1) if after[0] in after[1:] else 0
    return bool(period) and len(first) % period == 0


def _is_carried(run: Run) -> bool:
    trained = [each.carrying for each in run.passes.values() if each.trained]
    return any(each.carried > each.passes / 2 for each in trained)


STATEMENTS = (
    Statement("run.resumed_rate", check_resumed_rate),
    Statement("run.resumed_rows", check_resumed_rows),
)
