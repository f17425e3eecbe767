"""What an evaluation makes of its batches' figures, seen where they are known."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from andon.door.records import Run
from andon.door.rehearsal import Rehearsed
from andon.door.statements.statement import Statement
from andon.verify.errors import NotApplicable, Unusual

NEAR = (0.5, 2.0)  # of what is due: what is farther off is a sum, or in another unit
BITS = 1.442695  # a loss in bits
CLOSE = 2e-3
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
    for first, second in pairwise(run.rehearsed):
        if first.line != second.line or first.passes != second.passes or first.passes < 2:
            continue
        for kind in (_losses(first, second), _answers(first, second)):
            figures = list(kind)
            asked = asked or bool(figures)
            if figures and not any(abs(each.times - 1) <= CLOSE + each.rounded for each in figures):
                _judge(first, figures)
    if not asked:
        raise NotApplicable("an evaluation of several batches whose figures follow their losses, or right answers")


def _judge(first: Rehearsed, figures: list[Figure]) -> None:
    for each in figures:
        near = NEAR[0] < each.times < NEAR[1] and abs(each.times - BITS) > CLOSE
        counts = {count for count in (first.rows, first.targets) if count > first.passes}
        shares = [count / first.passes for count in counts]
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
    losses = {number: value for number, value in reversed(seen.items)}
    if len(losses) < seen.passes:
        return 0.0
    if max(losses.values()) - min(losses.values()) <= CLOSE * seen.loss:
        return next(iter(losses.values()))
    times = [value / seen.loss for value in losses.values()]
    return seen.loss if all(abs(each - round(each)) < CLOSE for each in times) else 0.0


def _answers(first: Rehearsed, second: Rehearsed) -> Iterator[Figure]:
    """Figures that are nothing where all answers are wrong."""
    for (one, rounded), (other, _) in zip(first.values, second.values, strict=False):
        if one > 0 and other == 0:
            times = one / HUNDRED if NEAR[0] < one / HUNDRED < NEAR[1] else one
            yield Figure("the share of right answers, all of which were right", times, rounded)


STATEMENTS = (Statement("run.eval_mean", check_means),)
