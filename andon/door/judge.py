"""What is said of a watched run: today's invariants and the statements, as findings; what was seen; what was not."""

from typing import Any, cast

from andon.door.records import Optimizing, Run
from andon.door.seen import described
from andon.door.statements import STATEMENTS, Statement
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.run.docstring import explain
from andon.verify.run.report import RED, YELLOW, Finding


def judged(run: Run, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """All that is said of a run and of what was captured from it, for a file."""
    findings, passed, lacking = watched(run)
    for statement in STATEMENTS:
        try:
            statement.function(run)
            passed.append(statement.name)
        except NotApplicable as lack:
            lacking[statement.name] = str(lack)
        except CheckFailed as found:
            findings.append(as_finding(statement, found))
    captured = [each for answer in answers for each in answer.get("findings", [])]
    for answer in answers:
        passed += answer.get("passed", [])
        lacking = {**answer.get("not_applicable", {}), **lacking}
    return {
        "seen": described(run),
        "captured": [line for answer in answers for line in _said(answer)],
        "findings": [*(each._asdict() for each in findings), *captured],
        "passed": passed,
        "not_applicable": lacking,
        "not_run": {name: why for answer in answers for name, why in answer.get("not_run", {}).items()},
        "times": {name: spent for answer in answers for name, spent in answer.get("times", {}).items()},
        "backwards": run.backwards,
        "steps": run.steps,
        "failed": run.failed,
        "ended": run.ended,
    }


def _said(answer: dict[str, Any]) -> list[str]:
    """What was captured, or why it was not, in a line each."""
    reason = answer.get("failed") or answer.get("reason")
    return [*answer.get("captured", []), *([f"not checked as a Subject: {reason}"] if reason else [])]


def as_finding(statement: Statement, found: CheckFailed) -> Finding:
    """A statement that does not hold."""
    about = explain(cast("Check", statement))
    light = YELLOW if isinstance(found, Unusual) else RED
    return Finding(statement.name, str(found), about.title, about.silent, about.look, detail=about.detail, light=light)


def watched(run: Run) -> tuple[list[Finding], list[str], dict[str, str]]:
    """What the invariants around each optimizer and its model found; each kind once."""
    findings: dict[str, Finding] = {}
    for each in run.optimizing.values():
        for finding in each.watch.findings if each.watch is not None else ():
            if finding.check == "watch.optimizer":  # `run.membership` sees all optimizers
                continue
            line = f"{finding.message}{_lines(run, each)}"
            findings.setdefault(finding.check, finding._replace(message=line))
    return list(findings.values()), [], {}


def _lines(run: Run, each: Optimizing) -> str:
    places = {"loss": run.loss_place, "step": each.stepped, "optimizer": each.made}
    said = ", ".join(f"{what} at {place}" for what, place in places.items() if place)
    return f" ({said})" if said else ""
