"""What moved in a run's steps and should not have, and what did not and should have; why, as far as it was seen."""

import torch

from andon.verify.access.calls import new_batch
from andon.verify.errors import CheckFailed, Unusual, listed
from andon.verify.observation.copies import follows, places_of
from andon.verify.observation.optimizers import innermost, tensors_of
from andon.verify.observation.reference_steps import depends, slopes
from andon.verify.observation.runs import Run
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Subject

NOTHING = torch.zeros(())


def still_ones(learning: set[str], steps: list[StepTrace]) -> list[str]:
    """What has not moved so far, although it might have."""
    first, last = steps[0].before, steps[-1].after
    same = sorted(name for name in learning if torch.equal(first[name], last[name]))
    return [name for name in same if not _is_below_rounding(steps, name)]


def require_reason(subject: Subject, run: Run, steps: list[StepTrace], still: list[str], count: int) -> None:
    """Fail where what has not moved has a gradient, or none can reach it."""
    found = slopes(subject, run.model, new_batch(subject))
    seen = [name for name in still if _largest(steps, name) or bool(found.get(name, NOTHING).any())]
    said = f"{run.name}: {{}} of {count} trainable parameters did not change in {len(steps)} steps: "
    own = _held(run, seen)
    if own or len(still) == count:
        wrong = own or seen or still
        raise CheckFailed(said.format(len(wrong)) + f"{listed(wrong)} ({_why_still(steps, wrong[0])})")
    if seen:
        raise Unusual(
            said.format(len(seen)) + f"{listed(seen)} (the optimizer does not hold it, and it has a gradient); right "
            "where it is meant to stay: then say so by requires_grad_(False)"
        )
    # a zero is right where the loss is the same wherever the parameter stands, as that of pairs is for a last bias
    cut = [name for name in still if name not in found or depends(subject, run.model, name, new_batch(subject))]
    if cut:
        raise Unusual(
            said.format(len(cut)) + f"{listed(cut)} ({_why_still(steps, cut[0])}); right where it is not meant to "
            "learn: then say so by requires_grad_(False)"
        )


def require_still(run: Run, steps: list[StepTrace], frozen: set[str], learning: set[str]) -> None:
    """Fail where a frozen parameter has moved, other than after one that learns."""
    drifted = [name for name in sorted(frozen) if any(_drifts(step, name, learning) for step in steps)]
    if not drifted:
        return
    own = _held(run, drifted)
    light, wrong = (CheckFailed, own) if own else (Unusual, drifted)
    by = "the optimizer holds them" if own else "nothing that learns is where they went"
    raise light(
        f"{run.name}: {len(wrong)} of {len(frozen)} frozen parameters changed in {len(steps)} steps: {listed(wrong)}; "
        f"{by}"
    )


def _held(run: Run, names: list[str]) -> list[str]:
    """Those of these parameters that the run's optimizer holds."""
    held = {id(tensor) for tensor in tensors_of(innermost(run.optimizer))}
    return [name for name in names if id(run.model.get_parameter(name)) in held]


def _drifts(step: StepTrace, name: str, learning: set[str]) -> bool:
    before, after = step.before[name], step.after[name]
    return not torch.equal(before, after) and not follows(before, after, places_of(step, learning))


def _largest(steps: list[StepTrace], name: str) -> float:
    found = [update.gradients[name] for step in steps for update in step.updates if name in update.gradients]
    return max((float(gradient.abs().max()) for gradient in found), default=0.0)


def _why_still(steps: list[StepTrace], name: str) -> str:
    updates = [update for step in steps for update in step.updates]
    if not updates:
        return "no update was made"
    if not any(name in update.gradients for update in updates):
        return "no gradient reached it, or the optimizer does not hold it"
    if _largest(steps, name) == 0:
        return "its gradient is 0 everywhere"
    rates = max(rate for update in updates for rate in update.rates)
    return f"its gradient reached {_largest(steps, name):.2g} at rates up to {rates:.2g}"


def _is_below_rounding(steps: list[StepTrace], name: str) -> bool:
    """Whether the updates of a parameter are below what its dtype resolves (`optimizer.survival` judges those)."""
    tensor = steps[0].before[name]
    resolved = float(tensor.abs().min()) * torch.finfo(tensor.dtype).eps / 4
    found = [update for step in steps for update in step.updates if name in update.gradients]
    sizes = [update.size(name) for update in found if bool(update.gradients[name].any())]
    return bool(sizes) and 0 < max(sizes) < resolved
