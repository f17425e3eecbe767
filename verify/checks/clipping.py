"""Clipping: the update's whole gradient, all of it, once, and the norm that is reported."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from andon.verify.access.calls import hyperparameter, new_batch, seeded
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.parameters import (
    State,
    fill,
    fitted,
    gradients_times,
    mismatch,
    norm,
    parameters,
    trainable,
)
from andon.verify.observation.reference_steps import SAME
from andon.verify.observation.runs import Make, Run, each_run, the_update
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Subject

SMALL = 1e-4  # times a gradient: below any sensible threshold
EXCESS = 50.0  # times the threshold: far beyond rounding, and within half precision
SHRUNK = 0.5  # of a gradient: some tensor's is clipped, and not only weighed in another way
POISONED = 6  # consecutive updates with a gradient that is not finite


@each_run
def check_bound(subject: Subject, make: Make) -> None:
    """However large the gradient, the update sees one whose norm is at most the declared `grad_clip`.

    Silent because most gradients are small: it shows as a spike of the loss, some day, that the data is blamed for.

    Look at a generator of parameters that computing the norm has used up, and at clipping before backward or after
    the step.

    Example:
        # wrong: the norm uses up the generator, so that nothing is left to clip
        parameters = model.parameters()
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)

        # right
        parameters = list(model.parameters())
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)

    Reference: pytorch/pytorch#148259.
    """
    clip = _threshold(subject)
    _, raw = _first(subject, make, SMALL)
    step, actual = _first(subject, make, EXCESS * clip / (norm(raw) / SMALL))
    if not norm(actual) <= clip * (1 + max(SAME, tolerance_of(step))):
        raise CheckFailed(
            f"{make().name}: a gradient of norm {EXCESS * clip:.6g} reaches the update with {norm(actual):.6g}; "
            f"grad_clip is {clip:.6g}"
        )


@each_run
def check_all_alike(subject: Subject, make: Make) -> None:
    """Clipping treats all parameters alike: one factor for all gradients, or one bound on all entries.

    Asked of a step that makes large gradients smaller. Wrong where `grad_clip` says one norm; else unusual.

    Silent because each part still points downhill.

    Look at which parameters are clipped (one group, one block, each by itself), and at how often in a step.

    Yellow where `grad_clip` is not said: parts, as an actor and a critic, may be clipped each by itself.

    Example:
        # wrong: each tensor is clipped to its own norm, which turns the whole gradient
        for p in model.parameters():
            torch.nn.utils.clip_grad_norm_(p, 1.0)
        optimizer.step()

        # right
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    Reference: Pascanu et al. 2013, arXiv:1211.5063, section 3.2.
    """
    step, raw = _first(subject, make, SMALL)
    _, actual = _first(subject, make, 1 / SMALL)
    factor, largest = fitted(actual, raw), max(float(tensor.abs().max()) for tensor in actual.values())
    shares = [fitted({key: actual[key]}, {key: raw[key]}) * SMALL**2 for key in actual if key in raw]
    if not any(share < SHRUNK for share in shares):
        raise NotApplicable("a step that makes large gradients smaller")
    error, name = mismatch(actual, raw, factor)
    by_value = {key: (tensor.double() / SMALL**2).clamp(-largest, largest) for key, tensor in raw.items()}
    allowed = max(SAME, tolerance_of(step))
    if not error <= allowed and not mismatch(actual, by_value)[0] <= allowed:
        own = fitted({name: actual[name]}, {name: raw[name]}) if name in actual else 0.0
        message = (
            f"{make().name}: a gradient {1 / SMALL**2:.0e} times as large reaches the update {factor:.4g} times as "
            f"large in all, and that of {name} {own:.4g} times: clipping turns it by {error:.2g}"
        )
        if "grad_clip" in subject.hyperparameters:
            raise CheckFailed(message)
        raise Unusual(f"{message}; right where parts are meant to be clipped each by itself, as an actor and a critic")


@each_run
def check_small_ones(subject: Subject, make: Make) -> None:
    """A gradient below the threshold reaches the update unchanged.

    Silent because adaptive optimizers hide a constant factor; weight decay, momentum and the threshold then mean
    something else.

    Look at clipping before the division by tokens or by the loss scale, and at a factor that may exceed 1.

    Example:
        # wrong: the gradients still hold the loss scale, so that almost every one is clipped
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

        # right
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    Reference: PyTorch documentation, Automatic Mixed Precision examples, Gradient clipping.
    """
    clip = _threshold(subject)
    step, raw = _first(subject, make, SMALL)
    size = norm(raw) / SMALL
    _, actual = _first(subject, make, 0.5 * clip / size)
    factor = fitted(actual, raw) * SMALL
    due = 0.5 * clip / size
    if not abs(factor / due - 1) <= max(SAME, tolerance_of(step)):
        raise CheckFailed(
            f"{make().name}: a gradient of norm {0.5 * clip:.6g}, half of grad_clip, reaches the update with "
            f"{norm(actual):.6g}"
        )


@each_run
def check_reported_norm(subject: Subject, make: Make) -> None:
    """The gradient norm that a step reports is that of all gradients together, before clipping.

    Silent because nothing else reads it: a norm taken after clipping hides every spike.

    Look at when it is taken (before clipping, after unscaling, once all micro-batches are in), and over which
    parameters.

    Example:
        # wrong: taken after clipping, it never exceeds 1.0
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        wandb.log({"grad_norm": norm.item()})

        # right: clip_grad_norm_ returns the norm before clipping
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        wandb.log({"grad_norm": norm.item()})

    Reference: PyTorch documentation, torch.nn.utils.clip_grad_norm_.
    """
    step, raw = _first(subject, make, SMALL)
    if "grad_norm" not in step.logged:
        raise NotApplicable("grad_norm among what step or loop reports")
    size = norm(raw) / SMALL
    for factor in (SMALL, 1.0, EXCESS * subject.hyperparameters.get("grad_clip", 1.0) / max(size, 1e-300)):
        seen, _ = _first(subject, make, factor)
        reported, due = float(seen.logged["grad_norm"]), factor * size
        if not abs(reported - due) <= max(SAME, tolerance_of(step)) * due:
            raise CheckFailed(
                f"{make().name} reports a gradient norm of {reported:.6g} where that of all gradients together, "
                f"before clipping, is {due:.6g}"
            )


@each_run
def check_non_finite(subject: Subject, make: Make) -> None:
    """A step whose gradient is not finite is refused, whichever step it is: nothing changes, or an error is raised.

    "Nothing" means weights and optimizer moments. Required of every step where `hyperparameters` has `skips_nonfinite`;
    otherwise only whether the code refuses some such steps and lets others through.

    Silent because weights that are not finite are noticed hours later, in the loss of some other step.

    Look at tests that run only every so many steps, at norms over some of the parameters, and at comparisons with
    NaN.

    Example:
        # wrong: looks at every hundredth step and applies all others unseen
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step % 100 != 0 or torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()

        # right
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()

    Reference: pytorch/torchtitan#4226.
    """
    run = make()
    vectors = [name for name, parameter in trainable(run.model).items() if parameter.dim() < 2]
    chosen = [*list(trainable(run.model))[:1], *vectors[:1], *list(trainable(run.model))[-1:]]
    outcomes: list[str] = []
    for number in range(POISONED):
        bad = (math.inf, math.nan)[number % 2]
        outcomes.append(_poisoned(subject, run, chosen[number % len(chosen)], bad, number))
        if outcomes[-1] == "raised":
            break
    let_through = [number for number, outcome in enumerate(outcomes) if outcome == "changed"]
    whole = run.name == "Subject.loop" or subject.loop is None  # a step may leave the refusal to its loop
    if not {"unchanged", "raised"} & set(outcomes) and not (whole and subject.hyperparameters.get("skips_nonfinite")):
        raise NotApplicable("hyperparameters['skips_nonfinite'], or a step that refuses gradients that are not finite")
    if let_through:
        name, bad = chosen[let_through[0] % len(chosen)], (math.inf, math.nan)[let_through[0] % 2]
        raise CheckFailed(
            f"{run.name}: {len(let_through)} of {len(outcomes)} steps with a gradient that is not finite changed "
            f"weights or moments; the first is step {let_through[0]}, with {bad} in the gradient of {name}"
        )


def tolerance_of(step: StepTrace) -> float:
    """What rounding explains between two runs of one step, of which one has its gradients scaled."""
    halves = any(tensor.dtype in (torch.bfloat16, torch.float16) for tensor in step.before.values())
    return 2e-2 if step.autocast or halves else SAME


def _threshold(subject: Subject) -> float:
    clip = hyperparameter(subject, "grad_clip")
    if not clip:
        raise NotApplicable("hyperparameters['grad_clip'] above 0")
    return clip


def _first(subject: Subject, make: Make, factor: float) -> tuple[StepTrace, State]:
    """A new run's first step with all gradients multiplied, and the gradients that its update saw."""
    with seeded():  # the same dropout each time
        run = make()
        with gradients_times(run.model, factor):
            step = run.step([new_batch(subject)])
    return step, the_update(run, step)


def _poisoned(subject: Subject, run: Run, name: str, bad: float, number: int) -> str:
    """What a step makes of one bad entry in one gradient: "unchanged", "changed" (and put back), "raised"."""
    weights, moments = parameters(run.model), copy.deepcopy(run.optimizer.state_dict())
    reached = []

    def poison(gradient: Tensor) -> Tensor:
        reached.append(name)
        spoiled = gradient.clone()
        spoiled.view(-1)[0] = bad
        return spoiled

    handle = run.model.get_parameter(name).register_hook(poison)
    try:
        run.act([new_batch(subject, number)])
    except Exception:  # noqa: BLE001 - whatever the code raises, it did not train on
        return "raised"
    finally:
        handle.remove()
    after = parameters(run.model)
    same = all(torch.equal(weights[key], after[key]) for key in weights)
    if same and _equal(moments, run.optimizer.state_dict()):
        return "unchanged"
    if not reached:
        return "without a gradient"
    fill(run.model, weights)
    run.optimizer.load_state_dict(moments)
    run.optimizer.zero_grad()
    return "changed"


def _equal(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether the moments are the same, bit by bit, or still zero where there were none; counters may move on."""
    for index, moments in after["state"].items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1:
                known = before["state"].get(index, {}).get(name, torch.zeros_like(value))
                if not torch.equal(known, value):
                    return False
    return True


CHECKS = (
    Check("clipping.bound", check_bound, tier=2),
    Check("clipping.all_alike", check_all_alike, tier=2),
    Check("clipping.small_ones", check_small_ones, tier=2),
    Check("clipping.reported_norm", check_reported_norm, tier=2),
    Check("clipping.non_finite", check_non_finite, tier=2),
)
