"""What a watched command's user is told: one report, whatever its processes were, and the exit code."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from andon.door.watched_command import Outcome
from andon.door.written import Writing
from andon.verify.run.causes import by_cause
from andon.verify.run.report import Finding, Report, render_json, render_text, wrap

NOT_MEASURED = 3
INDENT = 2  # columns


@dataclass(frozen=True)
class Answer:
    """A report, what was seen, and why nothing was measured."""

    report: Report
    seen: tuple[str, ...]
    reason: str = ""
    returncode: int = 0
    writing: Writing | None = None  # where a file was to be written
    not_resumed: str = ""  # what the comparison with a resumed run would need, where one was to be made

    @property
    def exit_code(self) -> int:
        """That of a command that failed; else that of the report, and 3 where nothing was measured or to be written."""
        if self.returncode:
            return self.returncode if self.returncode > 0 else 128 - self.returncode
        lacking = self.not_resumed or (self.writing.lack if self.writing else "")
        return NOT_MEASURED if self.reason else self.report.exit_code or (NOT_MEASURED if lacking else 0)

    def as_text(self, *, quiet: bool = False) -> str:
        """For a terminal: what was captured first."""
        said = f"{self.writing}\n" if self.writing else ""
        said += f"the resumed run is not measured: it needs {self.not_resumed}\n" if self.not_resumed else ""
        if self.reason:
            return f"not measured: {self.reason}\n{said}"
        known = replace(self.report, not_applicable={})
        text = render_text(known, quiet=quiet).replace(known.headline, self.report.headline, 1)
        return "\n".join([*self.seen, text + ("" if quiet else _not_asked(self.report)) + said])

    def as_json(self) -> str:
        """A list of one report, as `andon verify --json` gives, with what was captured and why nothing was measured."""
        content = json.loads(render_json([self.report]))
        extra = {"captured": list(self.seen), "not_measured": self.reason, "returncode": self.returncode}
        if self.writing:
            extra |= {"written": "" if self.writing.lack else str(self.writing.path), "not_written": self.writing.lack}
        extra |= {"not_resumed": self.not_resumed} if self.not_resumed else {}
        return json.dumps([{**content[0], **extra, "exit_code": self.exit_code}], indent=2) + "\n"


def answer(command: Sequence[str], outcome: Outcome, *, strict: bool = False, ignore: Sequence[str] = ()) -> Answer:
    """One report of all that the command's processes left; what several ranks say alike is said once."""
    results = sorted(outcome.results, key=lambda each: -each["steps"])
    name = shlex.join(command)
    if not any(each["steps"] for each in results):
        return Answer(Report(name, strict=strict), (), _reason(outcome, results), outcome.returncode)
    found = tuple(each for each in by_cause(_findings(results), lambda _: False) if each.check not in ignore)
    return Answer(
        Report(name, found, *_others(results), seconds=outcome.seconds, times=_joined(results, "times"), strict=strict),
        tuple(dict.fromkeys(line for each in results for line in [each["seen"], *each["captured"]] if line)),
        returncode=outcome.returncode,
    )


def _not_asked(report: Report) -> str:
    """Each reason with the checks that were not asked for it; what would be needed, not what is wrong."""
    reasons: dict[str, list[str]] = {}
    for name, reason in report.not_applicable.items():
        reasons.setdefault(reason, []).append(name)
    lines = [line for reason, names in reasons.items() for line in wrap(f"{reason}: {', '.join(names)}", INDENT)]
    heading = "not asked, as the run was not seen to have"
    return "\n".join(["", heading, *(f"{'':{INDENT}}{line}" for line in lines), ""]) if lines else ""


def _findings(results: list[dict[str, Any]]) -> list[Finding]:
    """What several processes found, each once, as the one of most steps says it."""
    findings: dict[tuple[str, str], Finding] = {}
    for each in (each for result in results for each in result["findings"]):
        findings.setdefault((each["check"], each["title"]), Finding(**each | {"follows": tuple(each["follows"])}))
    return list(findings.values())


def _others(results: list[dict[str, Any]]) -> tuple[tuple[str, ...], dict[str, str], dict[str, str]]:
    """What passed, what does not apply, what was not run: each statement in the first of them that it is in."""
    known = {each["check"] for result in results for each in result["findings"]}
    passed = dict.fromkeys(name for result in results for name in result["passed"] if name not in known)
    known |= passed.keys()
    lacking = {name: why for name, why in _joined(results, "not_applicable").items() if name not in known}
    known |= lacking.keys()
    return tuple(passed), lacking, {name: why for name, why in _joined(results, "not_run").items() if name not in known}


def _joined(results: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """A mapping of all results; the first says what is said differently."""
    return {name: value for result in reversed(results) for name, value in result[key].items()}


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
