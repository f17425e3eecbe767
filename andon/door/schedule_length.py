"""How long a schedule is: what it was told, or where the lambdas of a LambdaLR come to their end."""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from andon.verify.errors import NotApplicable

LENGTHS = ("total_steps", "T_max", "total_iters")
SMALL = 1e-6  # of the peak: as good as nothing
FALLS = 0.99  # of the peak, below which a rate has come down
MIDDLE = 0.02  # of the way down that is still to go half way to the end: an exponential has gone all of it by then
TAIL = 1.5  # times its length, through which a schedule was seen not to fall further


def length_of(scheduler: Any, steps: int) -> int | None:
    """In steps; `steps` are those of the run, and at twice as many a schedule of its length is over.

    To be asked when the run has ended: lambdas are called, and may have a state of their own.

    Raises:
        NotApplicable: a lambda fails, or says another thing when it is asked again.
    """
    if not isinstance(scheduler, LambdaLR):
        return next((getattr(scheduler, key) for key in LENGTHS if hasattr(scheduler, key)), None)
    lambdas = {id(each): each for each in scheduler.lr_lambdas}
    lengths = [_length(_values(each, 2 * steps + 2)) for each in lambdas.values()]
    return min((each for each in lengths if each), default=None)


def _values(function: Callable[[int], float], count: int) -> list[float]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            values, again = ([float(function(step)) for step in range(count)] for _ in range(2))
    except Exception as error:
        message = f"a lambda of LambdaLR that can be asked for its first {count} steps: {error!r}"
        raise NotApplicable(message) from error
    if values != again:
        raise NotApplicable("a lambda of LambdaLR that says the same when it is asked again")
    return values


def _length(values: Sequence[float]) -> int | None:
    """The first step of the least value after the peak, where it is a schedule's end."""
    peak = max(values)
    after = [max(each, SMALL * peak) for each in values[values.index(peak) :]]
    least = min(after)
    end = after.index(least)
    begins = max((step for step in range(end) if after[step] == peak), default=0)
    middle, length = after[(begins + end) // 2], values.index(peak) + end
    comes_down = peak > 0 and least < FALLS * peak and middle - least >= MIDDLE * (peak - least)
    return length if comes_down and len(values) >= TAIL * length else None
