"""A run that was stopped after a save and resumed, held to the same run that was not stopped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from andon.door.statements.statement import Statement
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

CLOSE = 1e-4  # of a number's size: rounding in float32
STEPS = 20  # of a resumed run that are compared
WORDS = {"rates": "the learning rate", "state": "the optimizer's state", "weights": "the weights", "losses": "the loss"}
Step = Mapping[str, Any]  # of `door.trail`


@dataclass(frozen=True)
class Resumption:
    """Three trails of one command."""

    whole: Sequence[Step]  # of the run that was not stopped
    stopped: Sequence[Step]  # of the one that was, up to its save
    resumed: Sequence[Step]
    file: str  # that it saved


def check_continuation(resumption: Resumption) -> None:
    """A run that is stopped after its first save and resumed goes on as the run that was not stopped.

    Asked where `--resume-command` says how it is resumed, and where two runs of the command agree up to that save:
    in their losses, rates, rows, weights and the optimizer's state, as the resumed one is to agree after it.

    Silent because a resumed run goes on to learn: with moments at zero, at another rate, on rows that it knows already.

    Look at what is saved beside the weights, and at what of it is read: the optimizer's state, the schedule's, how far
    the data was.

    Yellow where all of that is the same and rows come in an order of their own, or the loss alone differs, as random
    numbers that begin anew make it.
    """
    count = len(resumption.stopped)
    _require_repeats(resumption.whole[:count], resumption.stopped)
    due, got = resumption.whole[count:], resumption.resumed[:STEPS]
    for number, (one, other) in enumerate(zip(due, got, strict=False)):
        kinds = differing(one, other)
        if kinds:
            raise _judged(kinds, resumption, number)(_said(kinds, resumption, number))


def differing(one: Step, other: Step) -> list[str]:
    """What of a step is another, the cause before what follows of it."""
    kinds = [kind for kind in ("rates", "state", "weights") if _first(one[kind], other[kind]) is not None]
    kinds += ["rows"] if one["rows"] != other["rows"] else []
    return [*kinds, "losses"] if _first(one["losses"], other["losses"]) is not None else kinds


class _Pair(NamedTuple):
    due: float
    got: float


def _first(due: Sequence[Sequence[float]], got: Sequence[Sequence[float]]) -> _Pair | None:
    """The first numbers that are more than rounding apart; NaN stands for one that is not there."""
    for one, other in zip_longest(due, got, fillvalue=(math.nan, 0.0)):
        same = math.isnan(one[0]) and math.isnan(other[0])
        if not same and not abs(one[0] - other[0]) <= CLOSE * max(one[1], other[1]):
            return _Pair(one[0], other[0])
    return None


def _require_repeats(whole: Sequence[Step], stopped: Sequence[Step]) -> None:
    for number, (one, other) in enumerate(zip_longest(whole, stopped, fillvalue=None), 1):
        kinds = ["steps"] if one is None or other is None else differing(one, other)
        if kinds:
            raise NotApplicable(
                f"a command that repeats itself: two runs of it differ at step {number}, in {', '.join(kinds)}; seed it"
            )


def _judged(kinds: Sequence[str], resumption: Resumption, number: int) -> type[CheckFailed]:
    """Red where what was to be saved is lost, or rows come again from where they were before."""
    lost = {"rates", "state", "weights"} & set(kinds)
    return CheckFailed if lost or ("rows" in kinds and _known(resumption, number)) else Unusual


def _known(resumption: Resumption, number: int) -> int:
    """The step whose rows, and those that follow, the resumed run repeats; 0 where there is none."""
    before, after = ([each["rows"] for each in part] for part in (resumption.whole, resumption.resumed[:STEPS]))
    rows, count = after[number:], len(resumption.stopped)
    return next((begin + 1 for begin in range(count) if before[begin : begin + len(rows)] == rows), 0)


def _said(kinds: Sequence[str], resumption: Resumption, number: int) -> str:
    count = len(resumption.stopped)
    due, got = resumption.whole[count:], resumption.resumed[:STEPS]
    differences = [_difference(kind, due[number], got[number], _known(resumption, number)) for kind in kinds]
    later = next((each for each in range(number, min(len(due), len(got))) if _losses(due[each], got[each])), None)
    if later is not None and "losses" not in kinds:
        pair = _losses(due[later], got[later])
        assert pair is not None
        differences.append(f"from step {count + later + 1} on the loss: {pair.got:.6g}, and {pair.due:.6g} is due")
    return f"saved in {resumption.file} after step {count} and resumed, step {count + number + 1} is another: " + (
        "; ".join(differences)
    )


def _losses(due: Step, got: Step) -> _Pair | None:
    return _first(due["losses"], got["losses"])


def _difference(kind: str, due: Step, got: Step, known: int) -> str:
    if kind == "rows":
        return f"it is given the rows of step {known} again" if known else "it is given other rows"
    if kind == "state" and not got["state"]:
        return "the optimizer begins without a state"
    pair = _first(due[kind], got[kind])
    assert pair is not None
    what = "a sum of " if kind in ("state", "weights") else ""
    return f"{what}{WORDS[kind]} is {pair.got:.6g}, and {pair.due:.6g} is due"


CONTINUATION = Statement("run.continuation", check_continuation)
