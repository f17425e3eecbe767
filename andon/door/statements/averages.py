"""Copies of a model that follow it."""

from andon.door.records import Run
from andon.door.statements.statement import Statement
from andon.verify.errors import NotApplicable, Unusual

LATE = 20  # steps after which an average lags behind
MOST = 0.5  # of the way to the weights in one step


def check_lag(run: Run) -> None:
    """An average of the weights moves a small part of the way to them in each step.

    Silent because an average that follows at once is as good as the weights, only no average.

    Look at the two factors of the average, decay and its rest, for an exchange.

    Yellow alone: whoever copies the weights does so.
    """
    shares: list[float] = run.average_shares
    if not shares:
        raise NotApplicable("a copy of the model that follows it in each step")
    late = sorted(shares)[len(shares) // 2]
    if MOST < late < 1.0:
        raise Unusual(f"a copy of the model went {late:.0%} of the way to its weights in one step, after {LATE} steps")


STATEMENTS = (Statement("run.average", check_lag),)
