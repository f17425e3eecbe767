"""Which rows a run trains on."""

from itertools import accumulate

from andon.door.drawn import is_drawn, is_drawn_anew
from andon.door.learners import Learners, Share
from andon.door.records import Passes, Run
from andon.door.statements.statement import Statement, at, now_and_then
from andon.verify.errors import NotApplicable, Unusual

SEVERAL = 3  # batches of an epoch
FEWEST = 64  # rows before an order is one
BATCHES = 8  # of an epoch
DISTINCT = 0.5  # share of a pass's rows that must differ, or rows say nothing
SHARED = 0.2
HALF = 0.5
UNLIKE, NEARLY = 0.98, 0.9
LACK = "passes without a backward pass once steps are taken, on rows enough that are held out"


def check_order(run: Run) -> None:
    """Rows come in another order each epoch.

    Not asked where a pass is given the state that the one before returned: text goes on from row to row then.

    Silent because the loss falls all the same; a fixed order shows as a wave in it, and as a slightly worse end.

    Look for `shuffle=True`, a sampler's `set_epoch`, and a generator that is seeded anew each epoch.

    Yellow alone: whoever reads a stream in its order does so.
    """
    asked = False
    for passes in _trained(run):
        seen, period = passes.rows.seen, _epoch(passes)
        again = seen[period : 2 * period]
        if len(again) < FEWEST or passes.carrying.carried > HALF * passes.carrying.passes:
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

    Asked of passes without a backward pass once steps are taken, of rows that the same model was trained on before
    them: a fresh one for each fold knows its own alone, and what comes before is a first look, or a reference's
    figures. Not of rows that generation has made of the ones before. Not where another place of the script gives rows
    that are hardly trained on: that is the evaluation, and this one looks at what is trained on, as mining does; except
    where several models of one kind are given rows of their own, on some of which each was trained. Not asked where
    rows that are evaluated on are alike among themselves, unless nearly all were trained on; nor where nearly all rows
    that are trained on were first given to what learns without gradients, and not in the evaluation's own order: states
    that it acts on, of a world in which they come again. Not where rows are drawn from a world with no split: each
    evaluation gives others than the one before, and rows of training come again while others are still new.

    Look at how the data are split, and whether the split comes before windows, shuffling and copies.

    Yellow alone: whoever also reports the training set's figures does so.
    """
    trained = {row for passes in _trained(run) for row in passes.rows.seen}
    asked = [each for each in now_and_then(run) if _says_something(each, run, trained)]
    if not asked or not trained:
        raise NotApplicable(LACK)
    learners = Learners(run)
    shares = [learners.share(each, run.begun) for each in asked if not _is_of_a_world(run, each)]
    if not shares:
        raise NotApplicable(LACK)
    folds = [each for each in shares if _is_of_folds(each)]
    if folds:
        _hold_apart(folds[0], ", by the same of several models")
    elif not any(_is_new(each, run, trained) for each in asked):
        _hold_apart(min(shares, key=lambda share: share.of_all), "")


def _hold_apart(share: Share, by: str) -> None:
    """Raises where rows enough were trained on before."""
    if share.of_all > SHARED and share.rows >= FEWEST:
        place = at(share.passes.chain[0] if share.passes.chain else None)
        raise Unusual(
            f"{share.known} of {share.rows} rows that the model is evaluated on{place} were trained on in this run{by}"
        )


def _is_of_folds(share: Share) -> bool:
    """Whether several models are given rows of their own, on some but not all of which each was trained."""
    return share.folds and SHARED < share.of_all < UNLIKE and share.again < HALF


def _is_new(passes: Passes, run: Run, trained: set[int]) -> bool:
    """Whether hardly any of some passes' rows are ever trained on."""
    rows = set(passes.rows.since(run.begun))
    return len(rows & trained) <= SHARED * len(rows)


def _epoch(passes: Passes) -> int:
    """After how many rows, of several batches and hardly any of them twice, the first comes again; 0: never."""
    seen = passes.rows.seen
    if len(seen) < FEWEST or len(passes.rows.batches) < BATCHES or seen[0] not in seen[FEWEST:]:
        return 0
    period = seen.index(seen[0], FEWEST)
    differ = len(set(seen[:period])) >= DISTINCT * period
    return period if differ and _batches(passes, period) >= SEVERAL else 0


def _says_something(passes: Passes, run: Run, trained: set[int]) -> bool:
    """Whether rows are many, differ from each other in a stretch, and are not alike by their nature."""
    seen = passes.rows.since(run.begun)
    rows, stretches = set(seen), max(passes.stretches - passes.early, 1)
    if _repeats(passes, run.begun, stretches) and len(rows & trained) < NEARLY * len(rows):
        return False
    return len(rows) >= FEWEST and len(rows) > DISTINCT * len(seen) / stretches


def _is_of_a_world(run: Run, evaluated: Passes) -> bool:
    """Whether rows come again by nature: they are drawn anew, both here and in training, or acted on before."""
    return (is_drawn(run) and is_drawn_anew(evaluated, run.begun)) or _are_acted_on(run, evaluated)


def _are_acted_on(run: Run, evaluated: Passes) -> bool:
    """Whether nearly all rows that are trained on were first given to what learns without gradients: to act on them.

    An evaluation of them before is none of that: it gives the same rows in the same order again.
    """
    order, trained = _order(run, evaluated), _trained(run)
    learns = {key for each in trained for key in _weights(each)}
    learned = _firsts(trained)
    given = _firsts([each for each in run.passes.values() if _acts(each, order) and learns & _weights(each)])
    first = sum(given.get(row, place) < place for row, place in learned.items())
    return bool(learned) and first >= NEARLY * len(learned)


def _order(run: Run, evaluated: Passes) -> list[int]:
    """In which the last evaluation begins."""
    late = evaluated.rows.since(run.begun)
    return late[-(len(late) // max(evaluated.stretches - evaluated.early, 1)) :][:FEWEST]


def _acts(passes: Passes, order: list[int]) -> bool:
    """Whether passes have no gradients, and are no evaluation in this order."""
    return not passes.trained and not passes.with_gradients and passes.rows.seen[: len(order)] != order


def _firsts(several: list[Passes]) -> dict[int, int]:
    """When each row was first given to one of them."""
    known = dict[int, int]()
    for each in several:
        for row, place in each.rows.firsts().items():
            known[row] = min(place, known.get(row, place))
    return known


def _batches(passes: Passes, rows: int) -> int:
    """Of how many batches the first rows are: one that comes again at once is no epoch."""
    return sum(1 for end in accumulate(passes.rows.batches) if end <= rows)


def _weights(passes: Passes) -> set[int]:
    """Of the modules that are called: a model's parts may be, before the method of it that calls them is known."""
    return {id(p) for module in passes.modules.values() for p in module.parameters()}


def _repeats(passes: Passes, begun: int, stretches: int) -> bool:
    """Whether rows of one stretch are alike by their nature: then they are found among others, too."""
    one = passes.rows.at_once(begun, stretches)
    return len(set(one)) < UNLIKE * len(one)


def _trained(run: Run) -> list[Passes]:
    return [each for each in run.passes.values() if each.trained]


STATEMENTS = (Statement("run.order", check_order), Statement("run.held_out", check_held_out))
