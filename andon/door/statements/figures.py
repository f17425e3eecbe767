"""What an evaluation makes of its batches' figures, seen where they are known."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from andon.door.records import Run
from andon.door.rehearsal import Rehearsed
from andon.door.statements.statement import Statement, now_and_then
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

NEAR = (0.5, 2.0)  # of what is due: what is farther off is a sum, or in another unit
BITS = 1.442695  # a loss in bits
CLOSE = 2e-3
SEVERAL = 2  # batches
HUNDRED = 100.0  # percent


class Figure(NamedTuple):
    """A number that an evaluation came to, beside the mean of what it was made of."""

    what: str
    times: float  # what is due
    rounded: float


def check_means(run: Run) -> None:
    """What an evaluation says of losses that are all alike is just that loss; of answers that are all right, 1 or 100.

    Asked of an evaluation of several batches, gone through twice in copies of the process in which each loss is one
    number, and each comparison of classes is all right or all wrong; of the figures that follow these, where none is
    their mean.

    Silent because a figure that is always as much too large or too small falls and rises as it should.

    Look at what is added up for each batch, a mean or a sum, and whether its divisor counts batches, rows or tokens.

    Yellow alone: whoever reports a mean in another unit does so.
    """
    asked = False
    for first, second in _pairs(run, follows=False):
        if first.passes != second.passes or first.passes < SEVERAL:
            continue
        for kind in (_losses(first, second), _answers(first, second)):
            figures = list(kind)
            asked = asked or bool(figures)
            if figures and not any(abs(each.times - 1) <= CLOSE + each.rounded for each in figures):
                _judge(first, figures)
    if not asked:
        raise NotApplicable("an evaluation of several batches whose figures follow their losses, or right answers")


def check_better(run: Run) -> None:
    """Weights are kept, and the learning rate stays, where an evaluation's figures are good, rather than bad.

    Asked of an evaluation gone through twice in copies of the process, with losses near zero and all answers right, and
    with high losses and none right: of what the script does until it trains on.

    Silent because some weights are kept, and some rate is used.

    Look at the sign of the comparison, at `mode=` of ReduceLROnPlateau, and at which of two figures each is given.

    Yellow where the script sets the rate by itself: whoever slows down once figures are good does so.
    """
    pairs = list(_pairs(run, follows=True))
    if not any(_tells(good) != _tells(bad) for good, bad in pairs):
        raise NotApplicable("a script that keeps weights, or sets its learning rate, by the figures of an evaluation")
    for good, bad in pairs:
        said = f"after an evaluation ({good.line}) with losses near zero and all answers right"
        if good.kept < bad.kept:
            raise CheckFailed(f"{said} weights are not kept; with high losses and all answers wrong they are")
        for (mode, figure), (_, other) in zip(good.plateaus, bad.plateaus, strict=False):
            if figure != other and (figure < other) != (mode == "min"):
                raise CheckFailed(
                    f"ReduceLROnPlateau, of mode {mode!r}, is given {figure:.4g} {said}, and {other:.4g} with high "
                    "losses and all answers wrong: it lowers the rate where figures become better"
                )
        if sum(good.rates) < sum(bad.rates):
            raise Unusual(f"{said} the learning rate is lowered; with high losses and all answers wrong it is not")


def _tells(seen: Rehearsed) -> tuple[object, ...]:
    return seen.kept, seen.rates, seen.plateaus


def _pairs(run: Run, *, follows: bool) -> Iterator[tuple[Rehearsed, Rehearsed]]:
    """The two children of each evaluation; not of passes that come with most steps, as a reference's do."""
    often = {str(each.chain[0]) for each in run.passes.values() if each.chain and each.moments.of_training}
    often -= {str(each.chain[0]) for each in now_and_then(run) if each.chain}
    for first, second in pairwise(run.rehearsed):
        if (
            first.line not in often
            and first.line == second.line
            and first.follows == second.follows == follows
            and first.loss < second.loss
        ):
            yield first, second


def _judge(first: Rehearsed, figures: list[Figure]) -> None:
    for each in figures:
        near = NEAR[0] < each.times < NEAR[1] and abs(each.times - BITS) > CLOSE
        counts = {count for count in (first.rows, first.targets) if count > first.passes}
        batches = range(max(1, first.passes - 1), first.passes + 2)  # who divides by them may forget the last
        shares = [count / batch for count in counts for batch in batches]
        shares += [] if first.unknown else [first.passes / count for count in counts]
        other = any(_is(each, share) for share in shares)
        if near or other:
            raise Unusual(
                f"an evaluation ({first.line}) of {first.passes} batches, {first.rows} rows, comes to "
                f"{each.times:.5g} times {each.what}"
            )


def _is(figure: Figure, times: float) -> bool:
    return abs(figure.times - times) <= CLOSE * times + figure.rounded


def _losses(first: Rehearsed, second: Rehearsed) -> Iterator[Figure]:
    """Figures that are as many times one loss as another, where a batch's loss is known."""
    batch = _batch(first), _batch(second)
    if not batch[0] or not batch[1] or abs(batch[0] / first.loss - batch[1] / second.loss) > CLOSE:
        return
    for (one, rounded), (other, _) in zip(first.values, second.values, strict=False):
        times = one / batch[0]
        if times > 0 and abs(times - other / batch[1]) <= CLOSE * times + rounded:
            yield Figure("the loss that each of them has", times, rounded / batch[0])


def _batch(seen: Rehearsed) -> float:
    """The loss of each batch, where all have the same; what is made known, where they are sums of it; else 0."""
    losses = dict(reversed(seen.items))
    if len(losses) < seen.passes:
        return 0.0
    if max(losses.values()) - min(losses.values()) <= CLOSE * seen.loss:
        return next(iter(losses.values()))
    times = [value / seen.loss for value in losses.values()]
    return seen.loss if all(abs(each - round(each)) < CLOSE for each in times) else 0.0


def _answers(first: Rehearsed, second: Rehearsed) -> Iterator[Figure]:
    """Figures that are nothing where all answers are wrong; whole numbers are counts."""
    for (one, rounded), (other, _) in zip(first.values, second.values, strict=False):
        if one > 0 and other == 0 and (one in (1, HUNDRED) or one != round(one)):
            times = one / HUNDRED if NEAR[0] < one / HUNDRED < NEAR[1] else one
            yield Figure("the share of right answers, all of which were right", times, rounded)


STATEMENTS = (Statement("run.eval_mean", check_means), Statement("run.better", check_better))
