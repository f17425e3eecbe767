"""What came of a run of checks, for three readers: a terminal of 100 columns, a program, a caller that raises."""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from andon.verify.errors import CheckFailed, SubjectError

WIDTH = 100
LABEL = 10
SHORT = 24  # letters of a need that is named in the first line
BUDGET = "budget"
UNFINISHED = "not finished: budget"  # begun, and stopped within
CANNOT_RUN = "the subject could not be run"
SHOWN = 3  # checks that are named where one mistake stops several


class Finding(NamedTuple):
    """One check that did not pass."""

    check: str  # area.what, and " [variant]" where the subject has several
    message: str  # what was measured, and what it should be
    title: str = ""  # what is true of any correct implementation
    silent: str = ""  # why training does not show it
    look: str = ""
    seconds: float = 0.0
    mistake: bool = False  # the subject could not be run: no verdict on its code, and no pass


@dataclass(frozen=True)
class Report:
    """All checks of one run: each is in exactly one of findings, passed, not_applicable and not_run."""

    subject: str
    findings: tuple[Finding, ...] = ()
    passed: tuple[str, ...] = ()
    not_applicable: Mapping[str, str] = field(default_factory=dict)  # check to what it needs
    not_run: Mapping[str, str] = field(default_factory=dict)  # check to why
    notes: Mapping[str, str] = field(default_factory=dict)  # check to what its pass rests on: a dtype fallen back
    seconds: float = 0.0
    times: Mapping[str, float] = field(default_factory=dict)  # seconds of each check that ran

    @property
    def found(self) -> bool:
        """Whether anything did not pass, be it the subject's code or its description."""
        return bool(self.findings)

    @property
    def checked(self) -> int:
        """How many checks gave a verdict."""
        return len(self.passed) + sum(not finding.mistake for finding in self.findings)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The checks that the budget left out or stopped."""
        return tuple(name for name, reason in self.not_run.items() if reason in (BUDGET, UNFINISHED))

    @property
    def exit_code(self) -> int:
        """0 pass, 1 something was found, 2 the subject could not be run, 3 not all was measured, or nothing."""
        if any(not finding.mistake for finding in self.findings):
            return 1
        if self.findings:
            return 2
        return 3 if self.unmeasured or not self.checked else 0

    @property
    def headline(self) -> str:
        """How much applied, in a line: "12 checked, 33 need: optimizer, save/load"."""
        return headline([self])

    def raise_if_found(self) -> None:
        """Raise what was found.

        Raises:
            CheckFailed: the subject is wrong.
            SubjectError: the subject could not be run.
        """
        if self.found:
            raise (CheckFailed if self.exit_code == 1 else SubjectError)(render_text(self))


def headline(reports: Sequence[Report]) -> str:
    """How much applied, in a line, of several reports together."""
    line = f"{sum(report.checked for report in reports)} checked"
    reasons = Counter(_head(reason) for report in reports for reason in report.not_run.values())
    for reason, count in reasons.items():
        line += f", {count} not run ({reason})"
    lacking = [text for report in reports for text in report.not_applicable.values()]
    if not lacking:
        return line
    needs = [need for need, _ in Counter(need for text in lacking for need in _needs(text)).most_common()]
    shown = ", ".join(need for need in needs if len(need) <= SHORT)
    return textwrap.shorten(f"{line}, {len(lacking)} need: {shown or needs[0]}", WIDTH, placeholder=" ...")


def render_text(report: Report, *, quiet: bool = False) -> str:
    """Plain text: how much applied, the answer, all about each finding, then what was not run and why.

    `quiet` leaves out what passed and what does not apply.
    """
    blocks = ["\n".join([*wrap(report.headline), _answer(report)])]
    blocks += [_finding(finding) for finding in report.findings if not finding.mistake]
    blocks += [_mistake(message, checks) for message, checks in _mistakes(report).items()]
    left_out = {name: reason for name, reason in report.not_run.items() if reason != CANNOT_RUN}
    lists = [_table("not run", left_out), _table("note", report.notes)]
    if not quiet:
        lists = [_table("passed", dict.fromkeys(report.passed, "")), _table("needs", report.not_applicable), *lists]
    return "\n\n".join([*blocks, *filter(None, lists)]) + "\n"


def render_json(reports: Sequence[Report]) -> str:
    """JSON: a list of reports with all their fields, `headline` and `exit_code`."""
    content = [
        {"headline": report.headline, "exit_code": report.exit_code}
        | asdict(report)
        | {"findings": [finding._asdict() for finding in report.findings]}
        for report in reports
    ]
    return json.dumps(content, indent=2) + "\n"


def wrap(text: str, indent: int = 0) -> list[str]:
    """Lines of at most WIDTH columns, less an indentation."""
    wrapper = textwrap.TextWrapper(WIDTH - indent, break_on_hyphens=False)
    return [part for line in text.expandtabs().splitlines() for part in wrapper.wrap(line) or [""]]


def _answer(report: Report) -> str:
    code, count = report.exit_code, len(report.findings)
    answer = {
        0: "pass",
        1: f"{count} finding{'s' * (count != 1)}",
        2: "could not be run",
        3: "not all was measured" if report.checked else "nothing was measured",
    }[code]
    return f"{report.subject}: {answer} ({report.seconds:.1f} s)"


def _finding(finding: Finding) -> str:
    lines = wrap(f"FOUND {finding.check}: {finding.title}".rstrip(": "))
    entries = [("measured", finding.message), ("silent", finding.silent), ("look", finding.look)]
    return "\n".join([*lines, *(line for label, text in entries for line in _labeled(label, text))])


def _mistakes(report: Report) -> dict[str, list[str]]:
    """Why the subject could not be run, each reason once, and the checks that it stopped."""
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.mistake:
            found.setdefault(finding.message, []).append(finding.check)
    return found


def _mistake(message: str, checks: Sequence[str]) -> str:
    more = f" and {len(checks) - SHOWN} more" if len(checks) > SHOWN else ""
    heading = wrap(f"ERROR {', '.join(checks[:SHOWN])}{more}: {CANNOT_RUN}")
    return "\n".join([*heading, *_labeled("why", message)])


def _labeled(label: str, text: str) -> list[str]:
    """Lines of a text behind its label; none where there is no text."""
    lines = wrap(text, LABEL + 2) if text else []
    return [f"  {'' if place else label:<{LABEL - 1}} {line}".rstrip() for place, line in enumerate(lines)]


def _table(label: str, entries: Mapping[str, str]) -> str:
    """Checks by reason, a line or two each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in entries.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in by_reason.items():
        lines += wrap(f"{reason}: {', '.join(names)}" if reason else ", ".join(names), LABEL + 2)
    return "\n".join(f"{'' if place else label:<{LABEL + 1}} {line}" for place, line in enumerate(lines))


def _needs(text: str) -> list[str]:
    """What a check needs, in a few words: factories, or the beginning of what it said."""
    return re.split(r",? and |,? or |, ", _head(text))


def _head(text: str) -> str:
    return text.partition(": ")[0]
