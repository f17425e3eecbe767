"""Learning rates, as steps were taken at them."""

from itertools import pairwise

from andon.door.records import Optimizing, Run
from andon.door.statements.statement import FEW, Statement, at, stepping
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

HALF = 0.5
LONG, LATE = 20, 0.6  # steps of a run, and the share of them after which a warm-up is over
NOTHING = 1e-4  # of its peak, to which a rate has fallen


def check_rates(run: Run) -> None:
    """Learning rates are above zero for most of a run, and never below.

    Silent because a rate of zero stops learning without an error, and one below zero climbs slowly.

    Look at the schedule's length, in which steps it counts, and at what the rate is at its ends.

    Yellow where it is zero for more than a third of the steps: whoever warms up or cools down for so long does so.
    """
    for each in stepping(run, 8):
        negative = sum(1 for rates in each.rates if min(rates, default=0) < 0)
        if negative:
            raise CheckFailed(f"in {negative} of {each.steps} steps{at(each.stepped)} a learning rate was below zero")
        still = sum(1 for rates in each.rates if max(rates, default=1) == 0)
        if still > each.steps / 3:
            raise Unusual(
                f"in {still} of {each.steps} steps{at(each.stepped)} the learning rate of all groups was zero"
            )


def check_rate_left(run: Run) -> None:
    """A learning rate that falls does so over the run: it is not next to nothing for more than half of it.

    Next to nothing is a ten-thousandth of its peak. Steps before the peak do not count.

    Silent because the loss stays where it is, as if the model had learned all that it can.

    Look at what the schedule counts, steps or epochs, and at where `scheduler.step()` stands.

    Yellow alone.
    """
    for each in stepping(run, 8):
        rates = [max(rates, default=0.0) for rates in each.rates]
        peak = rates.index(max(rates))
        fallen = sum(1 for rate in rates[peak:] if 0 < rate < NOTHING * rates[peak])
        if fallen > HALF * len(rates):
            last = len(rates) - fallen
            raise Unusual(
                f"in {fallen} of {len(rates)} steps{at(each.stepped)} the learning rate was below {NOTHING:g} of its "
                f"peak of {rates[peak]:.3g}: from step {last + 1} on, and {rates[-1]:.2g} at last{_movers(run, each)}"
            )


def check_rate_peak(run: Run) -> None:
    """A learning rate that rises comes to its peak before the run ends.

    Silent because a rate that is far below what was meant trains, too, only slower.

    Look at what a warm-up's length, or the schedule's, counts: steps, micro-batches or epochs.

    Yellow alone: whoever stops a run early, or looks for a rate, does so.
    """
    asked = False
    for each in stepping(run, LONG):
        rates = [max(rates, default=0.0) for rates in each.rates]
        if not run.ended or max(rates) <= rates[0]:
            continue
        asked = True
        rises = [place for place, (one, other) in enumerate(pairwise(rates), 1) if other > one]
        falls = any(other < one for one, other in pairwise(rates))
        if not falls and len(rises) >= FEW and rises[-1] > LATE * len(rates):
            raise Unusual(
                f"the learning rate{at(each.made)} rose {len(rises)} times in {len(rates)} steps{at(each.stepped)}, "
                f"from {rates[0]:.3g} to {rates[-1]:.3g}, at last in step {rises[-1] + 1}, and never fell"
                f"{_movers(run, each)}"
            )
    if not asked:
        raise NotApplicable(f"a learning rate that rises, in a run of {LONG} steps that comes to its end")


def _movers(run: Run, each: Optimizing) -> str:
    said = [
        f"{type(one.scheduler).__name__} was stepped {one.calls} times{at(one.stepped or one.made)}"
        for one in run.scheduling.values()
        if one.optimizer == id(each.optimizer) and one.calls
    ]
    return f"; {' and '.join(said)}" if said else ""


def check_group_rates(run: Run) -> None:
    """Where the rate of one of an optimizer's groups is moved, no other one stays as it is.

    Silent because the group that stays learns too, only at another rate than its neighbors.

    Look at the loop over `param_groups` that sets the rate, and at how many groups it reaches.

    Yellow alone: whoever holds one group's rate does so.
    """
    asked = False
    for each in stepping(run, 8):
        moved = [
            len(set(rates)) > 1 for rates in zip(*each.rates, strict=False) if any(rates)
        ]  # 0 times any factor is 0
        asked = asked or (len(moved) > 1 and any(moved))
        if any(moved) and not all(moved):
            raise Unusual(
                f"the learning rate of {moved.count(True)} of {len(moved)} groups{at(each.made)} was moved within "
                f"{each.steps} steps, that of the others never"
            )
    if not asked:
        raise NotApplicable("an optimizer of several groups, whose rate is moved")


STATEMENTS = (
    Statement("run.rates", check_rates),
    Statement("run.rate_left", check_rate_left),
    Statement("run.rate_peak", check_rate_peak),
    Statement("run.group_rates", check_group_rates),
)
