"""What a schedule is told and how often it goes on."""

from andon.door.records import Optimizing, Run, Scheduling
from andon.door.schedule_length import length_of
from andon.door.statements.statement import FEW, Statement, at
from andon.verify.errors import NotApplicable, Unusual

MOST = 0.5  # of its length that a schedule must have gone, where the steps of the run are about as many
LACK = "a schedule that is told its length, in a run that comes to its end"
ALIKE = (0.5, 2.0)  # steps of the run, beside the schedule's length


def check_schedule_steps(run: Run) -> None:
    """A schedule goes on once for each step of its optimizer, or once an epoch, and never several times a step.

    Silent because the rate still falls, only sooner, and the end of the run is spent at its last value.

    Look at what the schedule's length counts, micro-batches or steps, and where `scheduler.step()` stands.

    Yellow alone: whoever counts micro-batches in its length, too, does so.
    """
    for each in _schedules(run):
        several = sum(count for calls, count in each.per_step.items() if calls > 1)
        steps = sum(each.per_step.values())
        if several >= FEW and several > steps / 2:
            calls = each.per_step.most_common(1)[0][0]
            raise Unusual(
                f"{_name(each)}{at(each.stepped or each.made)} was stepped {calls} times between two optimizer steps "
                f"in {several} of {steps} of them"
            )


def check_schedule_length(run: Run) -> None:
    """A schedule that is told the run's length has gone through it when the run ends.

    A LambdaLR's length is read from its lambdas, called when the run has ended: the first step of their least value
    after the peak. Not where they go on to fall, as one that counts no steps does, or where they fail.

    Silent because the rate stays where the schedule begins: a warm-up's foot, or a peak that never comes down.

    Look at what the length counts, and where `scheduler.step()` stands: beside the step, or after the epoch.

    Yellow alone: whoever stops a run early does so.
    """
    asked, reason = False, LACK
    for each in _schedules(run):
        optimizing = run.optimizing.get(each.optimizer)
        if optimizing is None or optimizing.steps < FEW or not run.ended:
            continue
        try:
            length = length_of(each.scheduler, optimizing.steps)
        except NotApplicable as lack:
            length, reason = None, str(lack)
        if length:
            asked = True
            _hold_length(each, optimizing, length)
    if not asked:
        raise NotApplicable(reason)


def _hold_length(each: Scheduling, optimizing: Optimizing, length: int) -> None:
    """Raises where the run is about as long as its schedule, which has gone less than half of its way."""
    about = ALIKE[0] <= optimizing.steps / length <= ALIKE[1]
    gone = max(each.calls, getattr(each.scheduler, "last_epoch", 0))
    if about and gone < MOST * length:
        raise Unusual(
            f"{_name(each)}{at(each.made)} is told {length} steps, the optimizer took {optimizing.steps}, and the "
            f"schedule went on {gone} times{at(each.stepped)}"
        )


def check_schedule_used(run: Run) -> None:
    """A schedule that is made is stepped, after its optimizer's first step, and drives an optimizer that steps.

    Silent because a rate that stays at its first value trains as well as any constant.

    Look for `scheduler.step()`, and for an optimizer that was made anew or wrapped after the schedule.

    Yellow alone.
    """
    for each in _schedules(run):
        optimizing = run.optimizing.get(each.optimizer)
        if run.ended and run.steps >= 8 and each.calls == 0 and not _within_another(run, each):
            raise Unusual(f"{_name(each)}{at(each.made)} was never stepped in {run.steps} optimizer steps")
        if each.calls >= FEW and optimizing is not None and optimizing.steps == 0 and run.steps >= 8:
            raise Unusual(
                f"{_name(each)}{at(each.made)} drives an optimizer{at(optimizing.made)} that took no step; "
                f"others took {run.steps}"
            )
        if each.before_first_step and optimizing is not None and optimizing.steps:
            raise Unusual(
                f"{_name(each)} was stepped{at(each.stepped)} before the first step of its optimizer"
                f"{at(optimizing.stepped)}: the first rate is skipped"
            )


def _schedules(run: Run) -> list[Scheduling]:
    if not run.scheduling:
        raise NotApplicable("a schedule of torch.optim.lr_scheduler")
    return list(run.scheduling.values())


def _within_another(run: Run, each: Scheduling) -> bool:
    """Whether another schedule drives this one."""
    others = [other.scheduler for other in run.scheduling.values() if other is not each]
    parts = [part for other in others for part in getattr(other, "_schedulers", ())]
    return any(part is each.scheduler for part in parts)


def _name(each: Scheduling) -> str:
    return type(each.scheduler).__name__


STATEMENTS = (
    Statement("run.schedule_steps", check_schedule_steps),
    Statement("run.schedule_length", check_schedule_length),
    Statement("run.schedule_used", check_schedule_used),
)
