"""What a step's update and log ought to be, beside what they are."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from andon.verify.errors import CheckFailed, NotApplicable, left_out_by
from andon.verify.observation.cross_entropy import loss_alternatives
from andon.verify.observation.micro_batches import counted
from andon.verify.observation.parameters import mismatch, norm
from andon.verify.observation.reference_steps import as_clipped, expected, tolerance
from andon.verify.observation.runs import Run, own_run, the_update
from andon.verify.observation.shown_batches import batches_seen
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Batch, Subject


class Difference(NamedTuple):
    """How far the gradient that an update saw is from the one that was due."""

    error: float  # of the worst tensor, as a share of itself
    name: str  # of that tensor
    seen: float  # norm in all
    due: float
    whole: float  # before clipping


def gradient_error(
    subject: Subject,
    run: Run,
    step: StepTrace,
    batches: list[Batch],
    shares: Sequence[float] = (),
    *,
    scaled: bool = False,
) -> Difference:
    """Compare an update's gradient with the independent one of its batches, clipped or not.

    `shares` and `scaled` are those of `expected`.

    Raises:
        NotApplicable: there is not one update, or a loop's batches cannot be told.
    """
    if run.name == "Subject.loop":
        batches = batches_seen(subject, step)
    require_alike(subject, batches)
    actual = the_update(run, step)
    if step.updates[0].elsewhere:
        raise NotApplicable("gradients that are taken at the weights a step begins with")
    if not step.backward:
        raise NotApplicable("a step that calls backward() on its loss, and makes its gradients by no other rule")
    _, whole = expected(subject, run.model, step, batches, shares, scaled=scaled)
    wanted = as_clipped(subject, actual, whole)
    return Difference(*mismatch(actual, wanted), norm(actual), norm(wanted), norm(whole))


def require_alike(subject: Subject, batches: list[Batch]) -> None:
    """Raise NotApplicable where a mixture's batches differ in size: each is balanced by itself."""
    if subject.mixture_of_experts and len({counted(subject, batch) for batch in batches}) > 1:
        raise left_out_by("mixture_of_experts", True, "a mixture's micro-batches of one size")


def require_repeatable(subject: Subject, batches: list[Batch]) -> None:
    """Raise NotApplicable where not even a plain step on each of these batches repeats its own loss and gradient.

    So it is where a loss draws random numbers before the model is called, or keeps what a pass has left.
    """
    for batch in batches[:2]:
        run = own_run(replace(subject, train_step=None))
        step = run.step([batch])
        loss, due = expected(subject, run.model, step, [batch])
        allowed = tolerance(run.model, step)
        repeated = abs(loss - float(step.logged["loss"])) <= allowed * abs(loss)
        if not repeated or not mismatch(the_update(run, step), due)[0] <= allowed:
            raise NotApplicable("a loss that is the same again, and so is its gradient, for the same random numbers")


def compare_gradient(
    subject: Subject, run: Run, step: StepTrace, batches: list[Batch], which: str, shares: Sequence[float] = ()
) -> None:
    """Whether an update's gradient is the independent one of its batches, clipped or not.

    Raises:
        CheckFailed: it is not.
        NotApplicable: there is not one update, or a loop's batches cannot be told.
    """
    found, allowed = gradient_error(subject, run, step, batches, shares), tolerance(run.model, step)
    if not found.error <= allowed:
        require_repeatable(subject, batches if run.loop is None else batches_seen(subject, step))
        raise CheckFailed(
            f"{run.name}: {which} sees a gradient of {found.name} that differs by {found.error:.2g} of itself from its "
            f"batches' own, and rounding explains {allowed:.0e}; norms in all: seen {found.seen:.6g}, due "
            f"{found.due:.6g} (before clipping {found.whole:.6g})"
        )


def compare_loss(
    subject: Subject, run: Run, step: StepTrace, batches: list[Batch], shares: Sequence[float] = ()
) -> None:
    """Whether a step reports the loss of its batches.

    Raises:
        CheckFailed: it reports another.
        NotApplicable: a loop's batches cannot be told.
    """
    if run.name == "Subject.loop":
        batches = batches_seen(subject, step)
    reported, allowed = float(step.logged["loss"]), tolerance(run.model, step)
    due = []
    for each in loss_alternatives(subject):
        due.append(expected(each, run.model, step, batches, shares)[0])
        if abs(reported - due[-1]) <= allowed * abs(due[-1]):
            return
    require_repeatable(subject, batches)
    raise CheckFailed(
        f"{run.name} reports a loss of {reported:.6g}, and that of its {len(batches)} batch(es), each weighted as "
        f"the loss of all their rows weighs it, is {' or '.join(f'{loss:.6g}' for loss in due)}; rounding "
        f"explains {allowed:.0e} of it"
    )
