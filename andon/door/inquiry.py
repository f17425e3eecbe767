"""What a child that has recorded one micro-batch asks: all checks that apply to the Subject, and our own questions."""

import os
from typing import Any

from torch import Tensor, nn

from andon.door.capture import Captured, as_subject, capture
from andon.door.questions import QUESTIONS
from andon.door.records import Optimizing
from andon.door.trace import Recorder
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.protect import protected
from andon.verify.run.docstring import explain
from andon.verify.run.report import RED, YELLOW, Finding
from andon.verify.run.runner import check

# What a model in the midst of its training, on the one batch that was seen, can be asked.
AREAS = (
    "loss",
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

CROWDED = 8.0


def inquire(
    recorder: Recorder,
    loss: Any,
    before: dict[int, nn.Module],
    random: Tensor,
    each: Optimizing,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The answer of a child: captured, findings, passed, not applicable."""
    try:
        captured = capture(recorder.entries, loss, before, random, recorder.compared, each.optimizer)
    except NotApplicable as lack:
        return {"captured": [], "reason": f"it needs {lack}"}
    except Exception as error:  # noqa: BLE001 - whatever a replay of somebody's code raises is why it was not measured
        return {"captured": [], "reason": f"{type(error).__name__}: {error}"}
    return _asked(captured, each, options)


def _asked(captured: Captured, each: Optimizing, options: dict[str, Any]) -> dict[str, Any]:
    subject = as_subject(captured, type(each.model).__name__)
    findings, passed, lacking = _questions(captured)
    report = check(subject, only=AREAS, budget=options["check_budget"] * _crowd())
    found = [finding for finding in report.findings if not finding.mistake]
    mistakes = [finding.message for finding in report.findings if finding.mistake]
    return {
        "captured": [_described(captured, each)],
        "findings": [finding._asdict() for finding in (*findings, *found)],
        "passed": [*passed, *report.passed],
        "not_applicable": {**lacking, **report.not_applicable},
        "not_run": dict(report.not_run),
        "reason": mistakes[0] if mistakes else "",
        "times": dict(report.times),
    }


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
                about = explain(question)  # ty: ignore[invalid-argument-type]
                light = YELLOW if isinstance(found, Unusual) else RED
                findings.append(Finding(question.name, str(found), about.title, about.silent, about.look, light=light))
            except Exception as error:  # noqa: BLE001 - our own change provoked it
                lacking[question.name] = f"code that takes what this question changes: {type(error).__name__}: {error}"
    return findings, passed, lacking


def _described(captured: Captured, each: Optimizing) -> str:
    parts = ", ".join(f"{name} {tuple(part.shape)}" for name, part in captured.parts.items())
    return f"captured at step {each.steps + 1} of {type(each.optimizer).__name__}: batch {parts}"


def _crowd() -> float:
    """How many processes share a core: seconds of a budget are those of a machine that does nothing else."""
    return min(CROWDED, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
