"""What a watched command's user is told: one report, whatever its processes were, and the exit code."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from andon.door.watched_command import Outcome
from andon.verify.run.report import Finding, Report, render_json, render_text

NOT_MEASURED = 3
# What follows from a finding is none of its own.
CAUSES = {
    "structure.parameters": ("watch.gradients", "structure.blocks"),
    "watch.zero_grad": ("watch.stale", "run.membership"),
    "optimizer.membership": ("run.membership", "watch.stale"),
    "run.membership": ("watch.stale",),
    "optimizer.decay": ("run.norms_decay",),
    "run.rates": ("run.schedule_steps",),
    "run.schedule_used": ("run.schedule_steps",),
    "run.padding": ("run.ignored",),
    "data.targets": ("run.next_token", "run.own_target"),
    "loss.definition": ("run.ignored", "run.own_target", "run.next_token"),
    "loss.ignored": ("run.ignored", "loss.definition"),
    "attention.causality": ("run.own_target",),
}


@dataclass(frozen=True)
class Answer:
    """A report, what was seen, and why nothing was measured."""

    report: Report
    seen: tuple[str, ...]
    reason: str = ""
    returncode: int = 0

    @property
    def exit_code(self) -> int:
        """That of a command that failed; else 3 where nothing was measured, and that of the report."""
        if self.returncode:
            return self.returncode if self.returncode > 0 else 128 - self.returncode
        return NOT_MEASURED if self.reason else self.report.exit_code

    def as_text(self, *, quiet: bool = False) -> str:
        """For a terminal: what was captured first."""
        if self.reason:
            return f"not measured: {self.reason}\n"
        return "\n".join([*self.seen, render_text(self.report, quiet=quiet)])

    def as_json(self) -> str:
        """A list of one report, as `andon verify --json` gives, with what was captured and why nothing was measured."""
        content = json.loads(render_json([self.report]))
        extra = {"captured": list(self.seen), "not_measured": self.reason, "returncode": self.returncode}
        return json.dumps([{**content[0], **extra, "exit_code": self.exit_code}], indent=2) + "\n"


def answer(command: Sequence[str], outcome: Outcome, *, strict: bool = False, ignore: Sequence[str] = ()) -> Answer:
    """One report of all that the command's processes left; what several ranks say alike is said once."""
    results = sorted(outcome.results, key=lambda each: -each["steps"])
    name = shlex.join(command)
    if not any(each["steps"] for each in results):
        return Answer(Report(name, strict=strict), (), _reason(outcome, results), outcome.returncode)
    findings: dict[tuple[str, str], Finding] = {}
    passed: dict[str, None] = {}
    lacking: dict[str, str] = {}
    not_run: dict[str, str] = {}
    times: dict[str, float] = {}
    for result in results:
        for each in result["findings"]:
            finding = Finding(**each)._replace(follows=tuple(each["follows"]))
            findings.setdefault((finding.check, finding.title), finding)
        passed |= dict.fromkeys(result["passed"])
        lacking = {**result["not_applicable"], **lacking}
        times |= result.get("times", {})
        not_run = {**result.get("not_run", {}), **not_run}
    found = tuple(each for each in by_cause(list(findings.values())) if each.check not in ignore)
    names = {each.check for each in findings.values()}
    good = tuple(each for each in passed if each not in names)
    lacking = {key: value for key, value in lacking.items() if key not in names and key not in good}
    not_run = {key: value for key, value in not_run.items() if key not in {*names, *good, *lacking}}
    report = Report(name, _sorted(found), good, lacking, not_run, seconds=outcome.seconds, times=times, strict=strict)
    seen = tuple(dict.fromkeys(line for each in results for line in [each["seen"], *each.get("captured", [])] if line))
    return Answer(report, seen, returncode=outcome.returncode)


def by_cause(findings: list[Finding]) -> list[Finding]:
    """What follows from another finding stands beneath it."""
    names = {each.check for each in findings}
    causes = {name: next((each for each in CAUSES.get(name, ()) if each in names), "") for name in names}
    causes = {name: causes.get(cause) or cause for name, cause in causes.items()}
    under = {cause: sorted(name for name, its in causes.items() if its == cause) for cause in names}
    return [each._replace(follows=(*each.follows, *under[each.check])) for each in findings if not causes[each.check]]


def _sorted(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda each: (each.mistake, each.light != "red")))


def _reason(outcome: Outcome, results: list[dict[str, Any]]) -> str:
    """Why nothing can be said, and what to do."""
    if outcome.returncode:
        return f"the command ended with exit code {outcome.returncode} before an optimizer of torch took a step"
    if not results:
        return (
            "no Python process of the command called a torch module; name the command that trains, "
            "such as `andon verify -- python train.py` (Python's options -I and -E hide us)"
        )
    if any(each.get("backwards") for each in results):
        return (
            "there were backward passes and no step of a torch.optim optimizer; wrap yours as one, or write a Subject"
        )
    return "a model was called, and no backward pass followed; name the command that trains, or let it run longer"
