"""The cord: no run starts behind a gate that is not green, and a run that leaves its bounds is stopped.

The training loop's records and `verify.watch` measure; here their values are compared with bounds.
"""

import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import click

from andon.files import write_whole

if TYPE_CHECKING:
    from andon.core.config import CordConfig
    from andon.core.training.loop import StepRecord
    from andon.core.training.state import TrainState
    from andon.gates import Check, Verdict
    from andon.verify.watcher import Watch

Cord = Callable[["StepRecord"], "Verdict | None"]  # the verdict that stops a run, or None


class Bound(NamedTuple):
    """What the cord compares: a key of [cord], the operator that must hold, and what to do where it does not."""

    key: str
    name: str
    unit: str
    operator: str
    why: str
    next_step: str


BOUNDS = (
    Bound(
        "loss_above",
        "cord.loss",
        "nats per token, median",
        "<=",
        "a loss that has left its bound does not come back by itself",
        "lower training.learning_rate or lengthen schedule.warmup_steps; inspect the data of these steps",
    ),
    Bound(
        "grad_norm_above",
        "cord.grad_norm",
        "before clipping, median",
        "<=",
        "a norm far beyond the clip makes every step a step of the clip's length in a random direction",
        "lower training.learning_rate; look at the loss of these steps",
    ),
    Bound(
        "tokens_per_second_below",
        "cord.tokens_per_second",
        "tokens/s, mean",
        ">=",
        "a run that has become slow costs what the plan did not count",
        "check the report's timeline, other processes, and data.workers",
    ),
    Bound(
        "skipped_above",
        "cord.skipped",
        "skipped steps",
        "<=",
        "a step that is skipped again and again trains nothing",
        "lower training.learning_rate; in float16 a few at the start are normal, until the loss scale has adapted",
    ),
    Bound(
        "watch_weights",
        "cord.weights",
        "findings",
        "<=",
        "weights that move though frozen, or stay the same though trained, are not the run that was meant",
        "fix what the finding names before continuing: what has been trained so far may be worthless",
    ),
)


def require_green(tier: str) -> None:
    """Exit if a tier is red, stale or not measured: print its verdict, exit with its code."""
    from andon import gates

    verdict = gates.judge(tier, gates.load_gates())
    if verdict.exit_code:
        click.echo(gates.render_text(verdict, quiet=True), err=True)
        click.echo(f"andon: no run is started behind {tier} {verdict.answer}; `andon gate run {tier}` first", err=True)
        sys.exit(verdict.exit_code)


def watched_weights(settings: "CordConfig", state: "TrainState") -> "AbstractContextManager[Watch | None]":
    """`verify.watch` around the loop if `cord.watch_weights` is set."""
    if not settings.watch_weights:
        return nullcontext()
    from andon.verify import watch  # late: it costs nothing where nobody asks for it

    return watch(state.model, state.optimizer, raises=False)


def make_cord(settings: "CordConfig", watch: "Watch | None") -> Cord:
    """A function of each step's record that returns a verdict if a bound is broken. `watch` is `watched_weights`'."""
    unset = (None, False)
    given = [bound for bound in BOUNDS if not any(getattr(settings, bound.key) is value for value in unset)]
    window: deque[StepRecord] = deque(maxlen=settings.window_steps)
    skipped = 0

    def cord(record: "StepRecord") -> "Verdict | None":
        from andon.gates import Verdict

        nonlocal skipped
        skipped += record.skipped
        if not record.skipped and record.step > settings.after_steps:
            window.append(record)
        values = window_metrics(window) if len(window) == settings.window_steps else {}
        values |= {"cord.skipped": skipped, "cord.weights": len(watch.findings) if watch else None}
        checks = [check_bound(bound, values.get(bound.name), getattr(settings, bound.key), watch) for bound in given]
        verdict = Verdict(f"step {record.step}", tuple(checks))
        return verdict if any(check.state == "red" for check in checks) else None

    return cord


def window_metrics(window: "Sequence[StepRecord]") -> dict[str, float | None]:
    """The metrics of a full window of steps; no throughput where all of them were profiled."""
    seconds = sum(sum(record.seconds.values()) for record in window)
    return {
        "cord.loss": median(record.loss for record in window),
        "cord.grad_norm": median(record.grad_norm for record in window),
        "cord.tokens_per_second": sum(record.tokens for record in window) / seconds if seconds else None,
    }


def check_bound(bound: Bound, value: float | None, setting: float, watch: "Watch | None") -> "Check":
    """One bound as a check of a verdict; one that is not measured yet neither stops the run nor passes."""
    from andon import gates
    from andon.gates.judge import OPERATORS

    threshold = 0.0 if isinstance(setting, bool) else float(setting)
    holds = value is not None and OPERATORS[bound.operator](value, threshold)
    findings = watch.findings if watch and isinstance(setting, bool) else []
    found = [f"{finding.check}: {finding.message}" for finding in findings]
    return gates.Check(
        name=bound.name,
        command="",
        seconds=None,
        value=value,
        unit=bound.unit,
        operator=bound.operator,
        threshold=threshold,
        why=bound.why,
        next_step=bound.next_step,
        state="not measured" if value is None else "pass" if holds else "red",
        detail="\n".join(found),
        exit_code=3 if value is None else int(not holds),
    )


def write_verdict(verdict: "Verdict", verb: str, folder: Path) -> str:
    """Write the verdict that stopped a run to `cord.json`; returns the message about it."""
    from andon import gates

    write_whole(folder / "cord.json", gates.render_json(verdict))
    text = gates.render_text(verdict)
    return f"the cord stopped the run: {text}\nwith a checkpoint; continue with: andon {verb} --resume {folder}"
