"""The learning rate over a run: its shape, and that it is the one the updates are made with."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from andon.verify.access.calls import hyperparameter, needed, new_model
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.optimizers import asks_again, stepped
from andon.verify.observation.runs import asks_a_metric, loop_run, new_optimizer
from andon.verify.observation.step_trace import StepTrace
from andon.verify.subject import Subject

NEAR = 1e-6  # of the peak: rounding of one formula
STEEP = 2.5  # times the even rise of a warm-up, that no warm-up exceeds (a cosine has pi / 2)
JUMP, SUDDEN = 0.1, 4.0  # of the peak, and times the falls beside it (1 - sqrt(t) begins with 2.4 times its next one)
HORIZON = 400  # steps that are looked at where hyperparameters name no end; longer runs are sampled
APPLIED, SHORT = 12, 32  # steps of a loop that is begun, and of one that is followed to its end
WASTED = "its batch is not learned from; where that is meant, say hyperparameters={'warmup_from': 0}"


def check_start(subject: Subject) -> None:
    """The first update has a learning rate above 0, unless declared otherwise, and in a warm-up one below the peak.

    A warm-up from 0 is unusual, not wrong: it wastes one batch. Wrong is what contradicts what is said of it.

    Silent because a step without effect costs only one batch, and one at the full rate only a worse start.

    Look at whether steps are counted from 0 or from 1, and at when the schedule is stepped.

    Yellow where the first rate is 0 and nothing says so: its batch teaches nothing, and many libraries begin there.

    Example:
        # wrong: step 0 has a learning rate of 0, and its batch is wasted
        def learning_rate(step):
            return max_lr * min(1.0, step / warmup_steps)

        # right
        def learning_rate(step):
            return max_lr * min(1.0, (step + 1) / warmup_steps)

    Reference: karpathy/nanoGPT#578.
    """
    for name, rate in _rates(subject):
        first = rate(0)
        _require_use(name, subject, first, rate(1))
        peak, warmup = subject.hyperparameters.get("learning_rate"), subject.hyperparameters.get("warmup_steps", 0)
        if peak is not None and warmup >= 2 and not first < peak * (1 - NEAR):
            raise CheckFailed(
                f"{name}: the rate of the first of {warmup:g} warm-up updates is {first:.4g}, already the peak"
            )


def check_warmup(subject: Subject) -> None:
    """In the warm-up the learning rate rises steadily to the peak, which it reaches at its end.

    Silent because a warm-up that is too short, too long or missing is a worse start and no error.

    Look at the units of the warm-up (steps, micro-batches, tokens, epochs) and at the division.

    Yellow where the rate rises in one large step: a warm-up in stairs is one as well.

    Example:
        # wrong: len(loader) counts micro-batches, so the warm-up is accumulation_steps times too long
        steps = epochs * len(loader)
        scheduler = get_cosine_schedule_with_warmup(optimizer, int(0.03 * steps), steps)

        # right
        steps = epochs * len(loader) // accumulation_steps
        scheduler = get_cosine_schedule_with_warmup(optimizer, int(0.03 * steps), steps)

    Reference: Goyal et al. 2017, arXiv:1706.02677, section 2.2.
    """
    peak, warmup = hyperparameter(subject, "learning_rate"), int(hyperparameter(subject, "warmup_steps"))
    for name, rate in _rates(subject):
        trace = [rate(step) for step in range(warmup + 2)]
        rises = [after - before for before, after in pairwise(trace[: warmup + 1])]
        if any(rise < -NEAR * peak for rise in rises[:-1]):
            raise CheckFailed(f"{name}: within the warm-up of {warmup} updates the rate falls by {-min(rises):.3g}")
        reached = max(trace[max(0, warmup - 1) :])
        if abs(reached - peak) > 1e-3 * peak:
            raise CheckFailed(
                f"{name}: at the end of {warmup} warm-up updates the rate is {reached:.6g}, not {peak:.6g}"
            )
        if warmup >= 3 and max(rises) > STEEP * peak / warmup:
            raise Unusual(
                f"{name}: within the warm-up of {warmup} updates the rate jumps by {max(rises):.3g}; "
                f"an even rise to {peak:.4g} takes {peak / warmup:.3g} a step"
            )


def check_peak(subject: Subject) -> None:
    """The learning rate is never above the peak, never negative, and always a finite number.

    Silent because a run survives a few updates that are too large, and ends worse.

    Look at formulas that are evaluated beyond the step they were made for.

    Example:
        # wrong: after total_steps the learning rate is negative
        def learning_rate(step):
            return max_lr * (1 - step / total_steps)

        # right
        def learning_rate(step):
            return max_lr * max(0.0, 1 - step / total_steps)
    """
    for name, rate in _rates(subject):
        peak = subject.hyperparameters.get("learning_rate", math.inf)
        for step in _sampled(subject):
            value = rate(step)
            _require_positive(name, step, value)
            if not 0 <= value <= peak * (1 + NEAR):
                raise CheckFailed(f"{name}: the rate of step {step} is {value:.6g}; it must lie in 0 to {peak:.6g}")


def check_decline(subject: Subject) -> None:
    """After the warm-up the learning rate never rises, ends at the declared share of the peak, and stays.

    A rate that falls steadily has no sudden drop in it; a rate that falls in stairs is flat between them. Wrong is an
    end at another share of the peak than `min_ratio` says; a rate that rises or drops on its way, or that goes on
    beyond the last step, where no update should be, is unusual.

    Silent because a rate that ends too high, or rises once more, only leaves a worse loss than there might have been.

    Look at the clamp beyond the last step, at the total that the schedule was given, and at `min_ratio`.

    Yellow where the rate rises again, falls in one step, or goes on beyond the last step: schedules with restarts, with
    stairs and without an end do so.

    Example:
        # wrong: after total_steps the cosine rises again
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        lr = min_lr + 0.5 * (max_lr - min_lr) * (1 + math.cos(math.pi * progress))

        # right
        progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        lr = min_lr + 0.5 * (max_lr - min_lr) * (1 + math.cos(math.pi * progress))

    Reference: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5.
    """
    peak, steps = hyperparameter(subject, "learning_rate"), int(hyperparameter(subject, "steps"))
    warmup, least = int(subject.hyperparameters.get("warmup_steps", 0)), subject.hyperparameters.get("min_ratio")
    for name, rate in _rates(subject):
        ends = steps if name == "Subject.lr_scheduler" else 2 * steps  # a scheduler is not stepped further than it is
        falling = [step for step in _sampled(subject) if warmup <= step <= max(ends, warmup + 1)]
        values = [rate(step) for step in falling]
        if least is not None:
            _require_end(name, rate, peak, steps, least)
        for step, (before, after) in zip(falling[1:], pairwise(values), strict=True):
            if after > before + NEAR * peak:
                raise Unusual(
                    f"{name}: after the warm-up the rate rises at step {step}, from {before:.6g} to {after:.6g}; right "
                    "where it is meant to begin again"
                )
        if falling == list(range(falling[0], falling[-1] + 1)):
            _require_no_jump(name, falling, values, peak)
        if ends > steps:
            _require_rest(name, rate, peak, steps)


def check_pure(subject: Subject) -> None:
    """The learning rate of a step depends on the step alone: called again, or in another order, it is the same.

    Silent because a rate that is computed from the one before looks right in the run it was tried in.

    Look for a rate that is multiplied in place, and for counters inside the schedule.

    Example:
        # wrong: decays whatever the rate is now, so each call decays it once more
        def learning_rate(step):
            group["lr"] *= 0.999
            return group["lr"]

        # right
        def learning_rate(step):
            return base_lr * 0.999**step

    Reference: Lightning-AI/litgpt#1435.
    """
    rate = needed(subject, "lr_at")
    steps = _sampled(subject)[:50]
    forward = {step: float(rate(step)) for step in steps}
    for step in [*reversed(steps), *steps]:
        again = float(rate(step))
        if again != forward[step]:
            raise CheckFailed(
                f"Subject.lr_at: step {step} has the rate {forward[step]:.6g}, and called again {again:.6g}"
            )


def check_applied(subject: Subject) -> None:
    """Each update of a run is made at the learning rate of its schedule, in every group, and that is what it reports.

    Silent because every rate trains: a schedule that is not used, used twice, or a step late gives a loss curve, too.

    Look at who writes the optimizer's rates, in which groups, and before or after the update.

    Yellow where one group's rate does not follow the others': a group may have a schedule of its own.

    Example:
        # wrong: the other groups keep the learning rate they began with
        optimizer.param_groups[0]["lr"] = learning_rate(step)

        # right
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
    """
    run = loop_run(subject)
    steps = [run.step() for _ in range(_few(subject))]
    applied = _applied(steps)
    for number, rates in enumerate(applied):
        made = f"{run.name}: update {number + 1} is made at {_said(rates)}"
        due = None if subject.lr_at is None else float(subject.lr_at(number))
        if due is not None and _off(due, rates) > 1e-5 * abs(due):
            raise CheckFailed(f"{made}; Subject.lr_at says {due:.6g}")
        if max(rates) > 0 and _is_other_share(rates, applied[-1]):
            raise Unusual(
                f"{run.name}: the groups' rates stand as {_said(rates)} in update {number + 1} and as "
                f"{_said(applied[-1])} in update {len(applied)}: one does not follow the schedule"
            )
        logged = steps[number].logged.get("learning_rate")
        if logged is None or number + 1 == len(applied):
            continue
        near = (*rates, *applied[number + 1])  # a scheduler that has stepped may report the next update's
        if _off(float(logged), near) > 1e-5 * max(rates):
            raise CheckFailed(f"{made} and reported at {float(logged):.6g}")


def check_run(subject: Subject) -> None:
    """A run's learning rates are above 0 from the first update on, and rise through the warm-up to the peak, not above.

    Silent because a model learns at almost any rate, only worse.

    Look at who writes the optimizer's rates, and whether anything does.

    Yellow where the first rate is 0 and nothing says so, as many libraries begin there.

    Example:
        # wrong: the scheduler is never stepped, so the rate stays at the first one of the warm-up
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        # right
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    Reference: PyTorch documentation, torch.optim, "How to adjust learning rate".
    """
    run = loop_run(subject)
    seen = [step.updates[0].rates for step in (run.step() for _ in range(_few(subject))) if step.updates]
    if not seen:
        raise NotApplicable("one optimizer update per step")
    rates = [(max if len(set(seen[0])) == 1 else min)(each) for each in seen]  # of groups with rates of their own
    for number, rate in enumerate(rates):
        _require_positive(run.name, number, rate)
    _require_use(run.name, subject, rates[0], rates[min(1, len(rates) - 1)])
    peak, warmup = hyperparameter(subject, "learning_rate"), int(subject.hyperparameters.get("warmup_steps", 0))
    if max(rates) > peak * (1 + NEAR):
        raise CheckFailed(f"{run.name}: an update is made at {max(rates):.6g}; the peak is {peak:.6g}")
    _require_rise(run.name, rates, warmup, peak)
    if len(rates) > warmup:
        _require_reached(run.name, seen, warmup, peak)


def check_state(subject: Subject) -> None:
    """A schedule that is saved and loaded goes on where it stood.

    Silent because a schedule that begins again gives a second warm-up: a bump in the curve, blamed on the resumed data.

    Look at what its `state_dict` holds, and at `last_epoch`, `initial_lr` and a first rate set on construction.

    Example:
        # wrong: the step is not in the state, so a resumed run warms up again
        def state_dict(self):
            return {"base_lr": self.base_lr, "warmup_steps": self.warmup_steps}

        # right
        def state_dict(self):
            return {"base_lr": self.base_lr, "warmup_steps": self.warmup_steps, "step": self.step_count}

    Reference: pytorch/torchtitan#275.
    """
    needed(subject, "lr_scheduler")
    whole = _trace(subject, 2 * APPLIED)
    optimizer, schedule = _scheduled(subject)
    _walk(subject, optimizer, schedule, APPLIED)
    if not hasattr(schedule, "state_dict"):
        raise NotApplicable("a schedule with state_dict")
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    optimizer, schedule = _scheduled(subject)
    optimizer.load_state_dict(saved[0])
    schedule.load_state_dict(saved[1])
    resumed = _walk(subject, optimizer, schedule, APPLIED)
    for number, (due, found) in enumerate(zip(whole[APPLIED:], resumed, strict=False)):
        if abs(due - found) > 1e-9 + 1e-6 * abs(due):
            raise CheckFailed(
                f"Subject.lr_scheduler: saved after {APPLIED} steps and loaded, step {APPLIED + number} has the rate "
                f"{found:.6g}; without that it is {due:.6g}"
            )


def _require_use(name: str, subject: Subject, first: float, second: float) -> None:
    """Fail where updates are made with nothing: the second, where a warm-up is said to begin at 0; say it of others."""
    said = subject.hyperparameters.get("warmup_from") == 0 and subject.hyperparameters.get("warmup_steps", 0) > 0
    _require_positive(name, 0, min(first, second))
    if said and not second > 0:
        raise CheckFailed(f"{name}: the rates of the first two updates are {first:.3g} and {second:.3g}")
    if not said and not first > 0:
        raise Unusual(f"{name}: the rate of the first update is {first:.3g}; {WASTED}")


def _require_positive(name: str, step: int, rate: float) -> None:
    """Fail where a rate is below zero, and says so."""
    if rate < 0:
        raise CheckFailed(f"{name}: the rate of step {step} is {rate:.6g}, below 0: such an update climbs")


def _require_no_jump(name: str, steps: list[int], values: list[float], peak: float) -> None:
    """Fail where a rate falls far in one step, and before and after by much less, but falls."""
    falls = [before - after for before, after in pairwise(values)]
    for step, (before, fall, after) in zip(steps[2:], zip(falls, falls[1:], falls[2:], strict=False), strict=False):
        if fall > JUMP * peak and after > NEAR * peak and fall > SUDDEN * max(before, after):
            raise Unusual(
                f"{name}: at step {step} the rate falls by {fall:.6g}, and in the steps beside it by {before:.3g} and "
                f"{after:.3g}: it jumps"
            )


def _require_end(name: str, rate: Callable[[int], float], peak: float, steps: int, least: float) -> None:
    """Fail where a schedule ends at another share of its peak than `least`, or goes on from there."""
    around = sorted(rate(step) for step in (steps - 1, steps))
    if not around[0] - NEAR * peak <= least * peak <= around[-1] + NEAR * peak:
        raise CheckFailed(
            f"{name}: at the end of {steps} steps the rate is {around[0]:.6g} to {around[-1]:.6g}; "
            f"min_ratio {least:g} of {peak:.6g} is {least * peak:.6g}"
        )


def _require_rest(name: str, rate: Callable[[int], float], peak: float, steps: int) -> None:
    """Say where a schedule goes on beyond its last step, up or down."""
    beyond = [rate(steps + more) for more in (1, 2, 10, steps)]
    if max(beyond) - min(*beyond, rate(steps)) > NEAR * peak + abs(rate(steps) - rate(steps + 1)):
        raise Unusual(
            f"{name}: beyond the last step the rate goes on from {rate(steps):.6g} to {max(beyond):.6g}; right where "
            "no run is ever longer"
        )


def _require_rise(name: str, rates: list[float], warmup: int, peak: float) -> None:
    """Fail where a run's rates fall within the warm-up, or begin at the peak."""
    falls = [number for number in range(1, min(warmup, len(rates))) if rates[number] < rates[number - 1] * (1 - NEAR)]
    if falls:
        raise CheckFailed(
            f"{name}: in the warm-up of {warmup} updates the rate falls from {rates[falls[0] - 1]:.6g} to "
            f"{rates[falls[0]]:.6g}"
        )
    if warmup >= 2 and not rates[0] < peak * (1 - NEAR):
        raise CheckFailed(f"{name}: the first of {warmup} warm-up updates is made at {rates[0]:.6g}, the peak")


def _require_reached(name: str, seen: list[tuple[float, ...]], warmup: int, peak: float) -> None:
    """Fail where no group's rate came to the peak."""
    highest = max(rate for each in seen for rate in each)
    if highest < peak * (1 - 1e-3):
        raise CheckFailed(
            f"{name}: after {len(seen)} updates, {warmup} of warm-up, the rate is {highest:.6g} at most; the peak is "
            f"{peak:.6g}"
        )


def _applied(steps: list[StepTrace]) -> list[tuple[float, ...]]:
    """The groups' rates in each step's update.

    Raises:
        NotApplicable: some step made none.
    """
    applied = [step.updates[0].rates for step in steps if step.updates]
    if not applied or len(applied) < len(steps):
        raise NotApplicable("one optimizer update per step")
    return applied


def _rates(subject: Subject) -> list[tuple[str, Callable[[int], float]]]:
    """What says the rate of a step: `lr_at`, and the trace of `lr_scheduler`."""
    found: list[tuple[str, Callable[[int], float]]] = []
    if subject.lr_at is not None:
        rate = subject.lr_at
        found.append(("Subject.lr_at", lambda step: float(rate(step))))
    if subject.lr_scheduler is not None:
        trace = _trace(subject, max(_sampled(subject)) + 1)  # as far as it goes
        found.append(("Subject.lr_scheduler", lambda step: trace[min(step, len(trace) - 1)]))
    if not found:
        raise NotApplicable("lr_at or lr_scheduler")
    return found


def _sampled(subject: Subject) -> list[int]:
    """Steps to look at: all of a short run and as many beyond; of a long one each of the first, and a few hundred."""
    steps = int(subject.hyperparameters.get("steps", HORIZON))
    warmup = int(subject.hyperparameters.get("warmup_steps", 0))
    stride = max(1, steps // HORIZON)
    near = {warmup - 1, warmup, warmup + 1, steps - 2, steps - 1, steps, steps + 1, 2 * steps}
    return sorted({*range(min(20, steps)), *range(0, 2 * steps, stride), *(step for step in near if step >= 0)})


def _few(subject: Subject) -> int:
    """How many steps of a run are looked at: those of its warm-up and a few more; all of a run that is short."""
    steps = int(subject.hyperparameters.get("steps", HORIZON))
    return steps if steps <= SHORT else min(APPLIED, int(subject.hyperparameters.get("warmup_steps", 0)) + 4)


def _off(due: float, rates: tuple[float, ...]) -> float:
    """How far the nearest of the groups' rates is from what it should be."""
    return min(abs(rate - due) for rate in rates)


def _is_other_share(rates: tuple[float, ...], last: tuple[float, ...]) -> bool:
    """Whether the groups' rates stand to each other otherwise than at last."""
    return any(abs(one - other) > 1e-4 for one, other in zip(_shares(rates), _shares(last), strict=True))


def _shares(rates: tuple[float, ...]) -> list[float]:
    return [rate / max(*rates, 1e-300) for rate in rates]


def _said(rates: tuple[float, ...]) -> str:
    return " and ".join(f"{rate:.6g}" for rate in sorted(set(rates)))


def _scheduled(subject: Subject) -> tuple[Any, Any]:
    assert subject.lr_scheduler is not None
    optimizer = new_optimizer(subject, new_model(subject))
    schedule = subject.lr_scheduler(optimizer)
    if asks_a_metric(schedule):
        raise NotApplicable("a schedule of steps alone, without a metric")
    return optimizer, schedule


def _trace(subject: Subject, count: int) -> list[float]:
    return _walk(subject, *_scheduled(subject), count)


def _walk(subject: Subject, optimizer: Any, schedule: Any, count: int) -> list[float]:
    """The rates of so many updates, or of as many as the schedule gives.

    Of groups with rates of their own it is the one whose peak is nearest to what is said, or the highest. The optimizer
    steps first, without gradients, as torch requires.
    """
    rates: list[list[float]] = []
    _step_without_gradients(optimizer)
    for _ in range(count):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        try:
            schedule.step()
        except Exception:  # whatever it raises, it has ended
            if len(rates) < subject.hyperparameters.get("steps", 2):
                raise
            break
    traces = list(zip(*rates, strict=True))
    peak = subject.hyperparameters.get("learning_rate")
    return list(max(traces, key=max) if peak is None else min(traces, key=lambda trace: abs(max(trace) - peak)))


def _step_without_gradients(optimizer: Any) -> None:
    """What tells torch's schedules that an update was made; no weight moves."""
    optimizer.zero_grad()
    if asks_again(optimizer):
        optimizer.step = lambda *_: None
    stepped(optimizer)


CHECKS = (
    Check("schedule.pure", check_pure, ("lr_at",)),
    Check("schedule.start", check_start, tier=2),
    Check("schedule.warmup", check_warmup, tier=2),
    Check("schedule.peak", check_peak, tier=2),
    Check("schedule.decline", check_decline, tier=2),
    Check("schedule.state", check_state, ("lr_scheduler",), tier=2),
    Check("schedule.applied", check_applied, ("loop",), tier=2),
    Check("schedule.run", check_run, ("loop",), tier=2),
)
