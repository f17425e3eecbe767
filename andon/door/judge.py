"""What is said of a watched run: today's invariants and the statements, as findings; what was seen; what was not."""

from typing import Any

from andon.door.invariants import INVARIANTS
from andon.door.lacks import in_words
from andon.door.records import Optimizing, Run
from andon.door.rehearsal import Rehearsed
from andon.door.sampling import Sample, is_reached
from andon.door.seen import described, micro_batches, settings
from andon.door.statements import STATEMENTS
from andon.door.whole_row import Cached
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.run.docstring import as_finding
from andon.verify.run.report import YELLOW, Finding


def judged(run: Run, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """All that is said of a run and of what was captured from it, for a file."""
    run.samples = [Sample(**each) for each in _given(answers, "sample")]
    run.rehearsed = [Rehearsed(**each) for each in _given(answers, "rehearsed")]
    run.metrics = _given(answers, "metrics")
    answers += [{"reason": f"an error of Andon's own ended the watching: {run.broke}"}] if run.broke else []
    run.cached = [Cached(**each) for each in _given(answers, "cached")]
    findings, passed, lacking = _stated(run)
    unread = any(each.get("unread") for each in answers)
    asked, reached = _settled(run, _all(answers, "findings"))
    return {
        "seen": described(run),
        "captured": [line for answer in answers for line in _said(answer)],
        "findings": [*(each._asdict() for each in [*watched(run, unread=unread), *findings]), *asked],
        "passed": [*passed, *reached, *_all(answers, "passed")],
        "not_applicable": _in_words(run, answers) | lacking,
        "not_run": dict(_all(answers, "not_run")),
        "times": dict(_all(answers, "times")),
        "backwards": run.backwards,
        "traits": next((each["traits"] for each in answers if "traits" in each), None),
        "settings": settings(run),
        "micro_batches": micro_batches(run),
        "entry": run.entry.as_json(),
        "trail": run.trail.as_json() if run.trail else None,
        "steps": run.steps,
    }


def _given(answers: list[dict[str, Any]], key: str) -> list[Any]:
    return [each[key] for each in answers if each.get(key)]


def _stated(run: Run) -> tuple[list[Finding], list[str], dict[str, str]]:
    """What the statements found, the names of those that passed, and what the others would need."""
    findings, passed, lacking = list[Finding](), list[str](), dict[str, str]()
    for statement in STATEMENTS:
        try:
            statement.function(run)
            passed.append(statement.name)
        except NotApplicable as lack:
            lacking[statement.name] = str(lack)
        except CheckFailed as found:
            findings.append(as_finding(statement, found))
    return findings, passed, lacking


def _settled(run: Run, findings: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Findings that other micro-batches do not refute, and the checks whose findings they do."""
    reached = [each["check"] for each in findings if is_reached(run.samples, each["message"])]
    return [each for each in findings if each["check"] not in reached], reached


def _in_words(run: Run, answers: list[dict[str, Any]]) -> dict[str, str]:
    """What checks of the captured Subject would need, for somebody who wrote none."""
    autocast = any(each.autocast for each in run.passes.values() if each.trained)
    return {name: in_words(reason, autocast=autocast) for name, reason in _all(answers, "not_applicable")}


def _all(answers: list[dict[str, Any]], key: str) -> list[Any]:
    """A list's parts, or a mapping's pairs, of all answers that have it."""
    parts = (answer.get(key, ()) for answer in answers)
    return [each for part in parts for each in (part.items() if isinstance(part, dict) else part)]


def _said(answer: dict[str, Any]) -> list[str]:
    """What was captured, or why it was not, in a line each."""
    reason = answer.get("failed") or answer.get("reason")
    return [*answer.get("captured", []), *([f"not checked as a Subject: {reason}"] if reason else [])]


def watched(run: Run, *, unread: bool) -> list[Finding]:
    """What the invariants around each optimizer and its model found; each kind once.

    `unread`: what has no gradient is nothing that the loss reads: it may be left over on purpose.
    """
    findings: dict[str, Finding] = {}
    for each in run.optimizing.values():
        for finding in each.watch.findings if each.watch is not None else ():
            if finding.check == "watch.optimizer":  # `run.membership` sees all optimizers
                continue
            line = f"{finding.message}{_lines(run, each)}"
            about = INVARIANTS[finding.check]
            light = YELLOW if unread and finding.check == "watch.gradients" else finding.light
            said = finding._replace(message=line, title=about.title, silent=f"Silent {about.silent}", light=light)
            findings.setdefault(finding.check, said)
    return list(findings.values())


def _lines(run: Run, each: Optimizing) -> str:
    places = {"loss": run.loss_place, "step": each.stepped, "optimizer": each.made}
    said = ", ".join(f"{what} at {place}" for what, place in places.items() if place)
    return f" ({said})" if said else ""
