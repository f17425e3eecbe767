"""Accumulation: however a batch is cut into micro-batches, one update is the same."""

from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.parameters import gradients_times, norm
from andon.verify.observation.runs import (
    SAME,
    counted,
    expected,
    micro_batches,
    sharpened,
    single_rows,
    step_run,
    tolerance,
)
from andon.verify.observation.step_comparison import compare_gradient, compare_loss, gradient_error, require_alike
from andon.verify.subject import Batch, Subject

PARTS = 4
MANY = 64  # enough for half-precision sums to lose what a part adds
EXCESS = 50.0  # of a gradient over the threshold


def check_gradient(subject: Subject) -> None:
    """The gradient of several micro-batches is that of one batch with all their rows: counted tokens weigh the same.

    Silent because each micro-batch's mean is a good loss: short ones only weigh too much, or the whole N times.

    Look at what each loss is divided by: the counted tokens of the whole step, not its own, and not the parts' number.
    """
    run, batches = step_run(subject), _parts(subject)
    compare_gradient(subject, run, run.step(batches), batches, "the update")


def check_clipped(subject: Subject) -> None:
    """The same with a gradient far above the threshold: it is clipped once, when all micro-batches are in.

    Silent because clipped parts add up to something of the right size that points elsewhere.

    Look at clipping inside the loop over micro-batches, and before the division by tokens.
    """
    if not subject.hyperparameters.get("grad_clip"):
        raise NotApplicable("hyperparameters['grad_clip']")
    run, batches = step_run(subject), _parts(subject)
    step = run.step(batches)
    factor = EXCESS * subject.hyperparameters["grad_clip"] / norm(expected(subject, run.model, step, batches)[1])
    run = step_run(subject)
    with gradients_times(run.model, factor):
        step = run.step(batches)
        compare_gradient(subject, run, step, batches, "the clipped update")


def check_many(subject: Subject) -> None:
    """64 micro-batches of one row add up as exactly as float32 does.

    Silent because what a sum in half precision loses is small: each further part below half a unit of its last digit.

    Look at the dtype that gradients are accumulated and reduced in.
    """
    run, batches = step_run(subject), single_rows(subject, MANY)
    require_alike(subject, batches)
    first = run.step(batches[:1])
    single = gradient_error(subject, run, first, batches[:1])
    many = gradient_error(subject, run, run.step(batches), batches)
    allowed = max(SAME, 2 * single.error) if tolerance(run.model, first) > SAME else SAME
    if not many.error <= allowed:
        raise CheckFailed(
            f"{run.name}: the update of {len(batches)} micro-batches of one row sees a gradient of {many.name} that "
            f"differs by {many.error:.2g} of itself from theirs; that of one row differs by {single.error:.2g}, and "
            f"rounding in float32 explains {allowed:.0e}"
        )


def check_reported_loss(subject: Subject) -> None:
    """A step of several micro-batches reports their loss over all counted tokens together.

    Silent because the curve still falls: a mean of means, a sum, or the last micro-batch's loss looks like a loss.

    Look at what is summed, detached and divided for the log.
    """
    run, batches = step_run(subject), _parts(subject)
    sharpened(run.model)
    step = run.step(batches)
    if "loss" not in step.logged:
        raise NotApplicable("loss among what the step reports")
    compare_loss(subject, run, step, batches)


def check_tokens(subject: Subject) -> None:
    """A step that reports tokens reports those of all its micro-batches.

    Silent because rates and budgets in tokens are believed, and the batch that was meant is not the one that was used.

    Look at which micro-batches are counted, and whether padding is.
    """
    run, batches = step_run(subject), _parts(subject)
    reported = run.step(batches).logged.get("tokens")
    if reported is None:
        raise NotApplicable("tokens among what the step reports")
    due = {
        sum(counted(subject, batch) for batch in batches),
        sum(tokens_of(subject, batch).numel() for batch in batches),
    }
    if int(reported) not in due:
        raise CheckFailed(f"{run.name} reports {int(reported)} tokens for {PARTS} micro-batches of {sorted(due)}")


def _parts(subject: Subject) -> list[Batch]:
    batches = micro_batches(subject, PARTS)
    require_alike(subject, batches)
    return batches


CHECKS = (
    Check("accumulation.gradient", check_gradient, ("train_step",), tier=2),
    Check("accumulation.clipped", check_clipped, ("train_step",), tier=2),
    Check("accumulation.reported_loss", check_reported_loss, ("train_step",), tier=2),
    Check("accumulation.tokens", check_tokens, ("train_step",), tier=2),
    Check("accumulation.many", check_many, ("train_step",), tier=3),
)
