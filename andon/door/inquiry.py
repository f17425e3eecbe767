"""What a child that has recorded one micro-batch asks: all checks that apply to the Subject, and our own questions."""

import os
from collections.abc import Collection
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.door.divisor import lack_of_labels
from andon.door.holding import learned
from andon.door.idle import of_others
from andon.door.questions import QUESTIONS
from andon.door.records import Optimizing, Run, summed
from andon.door.sampling import sample
from andon.door.traits import traits
from andon.door.unread import reads_nothing_ungraded
from andon.verify.capturing.micro_batch import Captured, as_subject, capture
from andon.verify.capturing.torch_calls import Recorder
from andon.verify.checks import CHECKS
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.protect import protected
from andon.verify.run.docstring import as_finding
from andon.verify.run.report import Finding
from andon.verify.run.runner import check

# What a model in the midst of its training, on the one batch that was seen, can be asked.
AREAS = (
    "loss.precision",
    "loss.definition",
    "loss.shapes",
    "loss.ignored",
    "loss.gradient",
    "loss.backward",
    "loss.scale",
    "attention",
    "positions",
    "norms",
    "structure.blocks",
    "structure.residual",
    "structure.parameters",
    "structure.tying",
    "initialization.finite",
    "determinism.eval",
    "determinism.modes",
    "determinism.purity",
    "determinism.history",
    "dtypes.loss",
    "dtypes.logits",
    "data.targets",
    "data.padding",
    "data.rows",
    "packing.borders",
    "gradients",
    "optimizer",
)

# What takes all modules of the script to be trained by this optimizer.
OF_ONE_MODEL = ("optimizer.membership", "structure.parameters")
CROWDED = 8.0
SHOWN = 6  # parts of a batch


class Elsewhere(NamedTuple):
    """Ids of parameters: what a micro-batch does not show, and the run does."""

    learned: set[int]  # had a gradient in a step before
    of_others: set[int]  # are held by other optimizers

    @classmethod
    def of(cls, run: Run, each: Optimizing) -> "Elsewhere":
        """At a micro-batch of this optimizer."""
        return cls(learned(run), of_others(run, each))


def inquire(
    recorder: Recorder, loss: Any, each: Optimizing, options: dict[str, Any], elsewhere: Elsewhere
) -> dict[str, Any]:
    """The answer of a child: captured, findings, passed, not applicable."""
    try:
        captured = capture(recorder, loss, each.optimizer)
        seen = sample(captured, id(each.optimizer), each.steps + 1, options["line"]).as_json()
    except NotApplicable as lack:
        return {"captured": [], "reason": "" if options["brief"] else f"it needs {lack}"}
    except Exception as error:  # noqa: BLE001 - whatever a replay of somebody's code raises is why it was not measured
        return {"captured": [], "reason": "" if options["brief"] else f"{type(error).__name__}: {error}"}
    return {"sample": seen} | ({} if options["brief"] else _asked(captured, each, options, elsewhere))


def _asked(captured: Captured, each: Optimizing, options: dict[str, Any], elsewhere: Elsewhere) -> dict[str, Any]:
    captured.micro_batches = summed(each)
    subject = as_subject(captured)
    findings, passed, lacking = _questions(captured)
    accumulates = max(each.backwards, default=1) > 1
    lack = lack_of_labels(captured, subject, accumulates=accumulates)
    without = unasked(captured, lack, elsewhere)
    areas = [one.name for one in CHECKS if _within(one.name, AREAS) and not _within(one.name, without)]
    lacking |= without
    report = check(subject, only=areas, budget=options["check_budget"] * _crowd())
    found = [finding for finding in report.findings if not finding.mistake]
    mistakes = [finding.message for finding in report.findings if finding.mistake]
    return {
        "captured": [_described(captured, each)],
        "unread": _reads_nothing_ungraded(captured),
        "traits": traits(subject, labels_are_targets=not lack),
        "findings": [finding._asdict() for finding in (*findings, *found)],
        "passed": [*passed, *report.passed],
        "not_applicable": {**lacking, **report.not_applicable},
        "not_run": dict(report.not_run),
        "reason": mistakes[0] if mistakes else "",
        "times": dict(report.times),
    }


def _within(name: str, areas: Collection[str]) -> bool:
    """Whether a check is among those that are named, by themselves or by their area."""
    return name in areas or name.partition(".")[0] in areas


def unasked(captured: Captured, lack: dict[str, str], elsewhere: Elsewhere) -> dict[str, str]:
    """Checks and areas whose premise the script was not seen to meet, and what that is."""
    found = dict(lack)
    if len(captured.before) > 1:
        found |= dict.fromkeys(OF_ONE_MODEL, "a script of one model")
    own = [p for module in captured.modules for p in module.parameters() if p.requires_grad]
    if elsewhere.of_others & {id(p) for p in own}:
        found["optimizer.membership"] = "a model that one optimizer trains"
    if {id(p) for p in _unreached(captured, own)} & (elsewhere.learned | elsewhere.of_others):
        found["structure.parameters"] = "one loss for all of a model: this one's does not reach what another trains"
    if not _has_own_backward(captured.loss):
        found["gradients"] = "a backward pass of the script's own: torch.autograd.Function"
    return found


def _unreached(captured: Captured, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """Those that no gradient of the loss comes to."""
    if not captured.loss.requires_grad:
        return parameters
    found = torch.autograd.grad(captured.loss, parameters, retain_graph=True, allow_unused=True)
    return [p for p, gradient in zip(parameters, found, strict=True) if gradient is None]


def _has_own_backward(loss: Tensor) -> bool:
    """Whether a torch.autograd.Function of somebody's lies between the loss and the weights."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def _questions(captured: Captured) -> tuple[list[Finding], list[str], dict[str, str]]:
    findings, passed, lacking = [], [], {}
    for question in QUESTIONS:
        with protected():
            try:
                question.function(captured)
                passed.append(question.name)
            except NotApplicable as lack:
                lacking[question.name] = str(lack)
            except CheckFailed as found:
                findings.append(as_finding(question, found))
            except Exception as error:  # noqa: BLE001 - our own change provoked it
                lacking[question.name] = f"code that takes what this question changes: {type(error).__name__}: {error}"
    return findings, passed, lacking


def _reads_nothing_ungraded(captured: Captured) -> bool:
    with protected():
        try:
            return reads_nothing_ungraded(captured)
        except Exception:  # noqa: BLE001 - moving weights, our own change, provoked it: nothing was measured
            return False


def _described(captured: Captured, each: Optimizing) -> str:
    shown = [f"{name} {tuple(part.shape)}" for name, part in islice(captured.parts.items(), SHOWN)]
    more = len(captured.parts) - len(shown)
    parts = ", ".join(shown) + (f" and {more} more" if more else "")
    return f"captured at step {each.steps + 1} of {type(each.optimizer).__name__}: batch {parts}"


def _crowd() -> float:
    """How many processes share a core: seconds of a budget are those of a machine that does nothing else."""
    return min(CROWDED, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
