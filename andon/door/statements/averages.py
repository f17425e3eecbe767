"""Copies of a model that follow it."""

from andon.door.records import Run
from andon.door.statements.statement import Statement, at
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

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


def check_apart(run: Run) -> None:
    """An average of the weights is kept apart from them: in tensors of its own.

    Asked of copies of the model that follow it, and of dictionaries of its names whose tensors lie in the storage of
    the weights, where something other than the optimizer writes to these weights in each window that is looked at, and
    writes what they are already.

    Silent because the average is then the weights themselves, which are evaluated and saved as well.

    Look for `clone()` or `deepcopy` where the average is made: `state_dict()` and `detach()` copy nothing.

    Yellow alone.
    """
    if not run.aliased and not run.average_shares:
        raise NotApplicable("a copy of the model that follows it in each step, or a dictionary in its place")
    if run.aliased:
        raise Unusual(
            f"a dictionary of the model's names is no copy: its matrix {run.aliased[0]} lies in the storage of the "
            f"weights, which after each of the steps {LATE} and later was written to, by what it was already"
        )


def check_buffers(run: Run) -> None:
    """A copy of the model that follows it takes over its batch statistics as well, or makes its own.

    Asked where a copy is called in eval mode without gradients, in which the weights of batch norms have gone in the
    direction of the model's, while the running statistics of the model have moved; and of the model itself, where an
    average was put into it.

    Silent because the copy learns what the model learns, and is only evaluated with the mean and variance of
    activations of another model, the one that it began as.

    Look at what the average goes over: `parameters()` has no buffers. Copy those in each step, or call `update_bn`
    before the copy is evaluated.
    """
    if not run.evaluated_copies:
        raise NotApplicable("a copy of a model with batch norms that follows it, and is called in eval mode")
    stale = [each for each in run.evaluated_copies if each.stale]
    if stale:
        last = stale[-1]
        raise CheckFailed(
            f"weights of {last.kind} follow those of the model, and are evaluated{at(last.place)} after "
            f"{last.steps} steps with the running statistics that they began with, bit for bit, in all {last.count} "
            "batch norms whose statistics training has moved"
        )


STATEMENTS = (
    Statement("run.average", check_lag),
    Statement("run.average_apart", check_apart),
    Statement("run.average_buffers", check_buffers),
)
