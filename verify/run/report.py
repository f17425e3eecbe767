"""What came of a run of checks, for three readers: a terminal of 100 columns, a program, a caller that raises."""

import json
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from andon.verify.errors import CheckFailed, SubjectError, UnusualWarning

WIDTH = 100
LABEL = 10
PART = 24  # columns of a part of a subject, and of how many checks need it
RARE = ("adapters", "quantizer")  # parts that most training code has not: named last
BUDGET = "budget"
UNFINISHED = "not finished: budget"  # begun, and stopped within
RED, YELLOW = "red", "yellow"
CANNOT_RUN = "the subject could not be run"
FOLLOWS = "follows from"  # a finding: what its name says is not measured
SHOWN = 3  # checks that are named where one mistake stops several
RAISED = {1: CheckFailed, 2: SubjectError}  # by exit code


class Finding(NamedTuple):
    """One check that did not pass."""

    check: str  # area.what, and " [variant]" where the subject has several
    message: str  # what was measured, and what it should be
    title: str = ""  # what is true of any correct implementation
    silent: str = ""  # why training does not show it
    look: str = ""
    seconds: float = 0.0
    mistake: bool = False  # the subject could not be run: no verdict on its code, and no pass
    detail: str = ""  # what more is to be said of the title: where it does not hold
    light: str = RED  # or YELLOW: right only if its author meant it
    follows: tuple[str, ...] = ()  # checks that were red or yellow by the same cause, and are no findings of their own


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
    strict: bool = False  # yellow counts as red does

    @property
    def found(self) -> bool:
        """Whether anything did not pass, be it the subject's code or its description."""
        return bool(self.findings)

    @property
    def red(self) -> tuple[Finding, ...]:
        """What is wrong in any training code."""
        return tuple(each for each in self.findings if not each.mistake and each.light == RED)

    @property
    def yellow(self) -> tuple[Finding, ...]:
        """What is right only if its author meant it."""
        return tuple(each for each in self.findings if not each.mistake and each.light == YELLOW)

    @property
    def checked(self) -> int:
        """How many checks gave a verdict: those that passed, were found, or follow from what was found."""
        found = [finding for finding in self.findings if not finding.mistake]
        return len(self.passed) + len(found) + sum(len(finding.follows) for finding in found)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The checks that the budget left out or stopped."""
        return tuple(name for name, reason in self.not_run.items() if reason in (BUDGET, UNFINISHED))

    @property
    def exit_code(self) -> int:
        """0 pass, 1 red (where strict, or yellow), 2 the subject could not be run, 3 not all was measured, or nothing.

        Yellow alone is 0.
        """
        if self.red or (self.strict and self.yellow):
            return 1
        if any(finding.mistake for finding in self.findings):
            return 2
        return 3 if self.unmeasured or not self.checked else 0

    @property
    def headline(self) -> str:
        """How much applied: "12 checked, 33 not applicable: optimizer unlocks 20, loop 13"."""
        return headline([self])

    def raise_if_found(self) -> None:
        """Raise what was found; yellow alone is a warning, unless the report is strict.

        Raises:
            CheckFailed: the subject is wrong.
            SubjectError: the subject could not be run.
        """
        if self.exit_code in RAISED:
            raise RAISED[self.exit_code](render_text(self))
        if self.yellow:
            warnings.warn(render_text(self, quiet=True), UnusualWarning, stacklevel=2)


def headline(reports: Sequence[Report]) -> str:
    """How much applied, of several reports together, and the parts that open more checks, most checks first."""
    line = f"{sum(report.checked for report in reports)} checked"
    reasons = Counter(_head(reason) for report in reports for reason in report.not_run.values())
    for reason, count in reasons.items():
        line += f", {count} not run ({reason})"
    count = sum(len(report.not_applicable) for report in reports)
    if not count:
        return line
    opened = [(part, len(names)) for part, names in _by_part(reports).items()]
    said = [f"{part}{' unlocks' * (place == 0)} {number}" for place, (part, number) in enumerate(opened)]
    shown = f": {', '.join(said)}" if said else ""
    return f"{line}, {count} not applicable{shown}"


def render_text(report: Report, *, quiet: bool = False) -> str:
    """Plain text: how much applied, the answer, all about each finding, then what was not run and why.

    `quiet` leaves out what passed, with what that rests on, and what does not apply.
    """
    blocks = ["\n".join([*wrap(report.headline), _answer(report)])]
    blocks += [_finding(finding) for finding in report.findings if not finding.mistake]
    blocks += [_mistake(message, checks) for message, checks in _mistakes(report).items()]
    left_out = {name: reason for name, reason in report.not_run.items() if not _is_explained(reason)}
    lists = [_table("not run", left_out)]
    if not quiet:
        passed = _table("passed", dict.fromkeys(report.passed, ""))
        lists = [passed, _needs(report), *lists, _table("note", report.notes)]
    return "\n\n".join([*blocks, *filter(None, lists)]) + "\n"


def render_json(reports: Sequence[Report]) -> str:
    """JSON: a list of reports with all their fields, `headline`, `exit_code`, and how many are `red` and `yellow`."""
    content = [
        {"headline": report.headline, "exit_code": report.exit_code}
        | {RED: len(report.red), YELLOW: len(report.yellow)}
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
    said = [f"{len(found)} {light}" for light, found in ((RED, report.red), (YELLOW, report.yellow)) if found]
    if any(finding.mistake for finding in report.findings):
        said.append("not all could be run" if said else "could not be run")
    elif report.unmeasured or not report.checked:
        said.append("not all was measured" if report.checked else "nothing was measured")
    answer = ", ".join(said) or "pass"
    return f"{report.subject}: {answer} ({report.seconds:.1f} s)"


def _is_explained(reason: str) -> bool:
    """Whether a finding already says why a check was not run."""
    return reason == CANNOT_RUN or reason.startswith(FOLLOWS)


def _finding(finding: Finding) -> str:
    lines = wrap(f"{finding.light.upper()} {finding.check}: {finding.title}".rstrip(": "))
    silent, look = finding.silent.removeprefix("Silent "), finding.look.removeprefix("Look ")
    entries = [("measured", finding.message), ("detail", finding.detail), ("silent", silent), ("look", look)]
    entries.append(("follows", f"from it: {', '.join(finding.follows)}" if finding.follows else ""))
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


def _needs(report: Report) -> str:
    """A row for each part that the subject lacks, with the areas that it opens, most checks first; then the rest."""
    by_part = _by_part([report])
    lines = [
        line
        for part, names in by_part.items()
        if part not in RARE
        for line in _row(f"{part} ({len(names)})", _areas(names))
    ]
    rare = " and ".join(f"{part} ({len(by_part[part])})" for part in RARE if part in by_part)
    lines += _row("fine-tuning", rare) if rare else []
    other: dict[str, list[str]] = {}
    for name, text in report.not_applicable.items():
        if not parts_of(text):
            other.setdefault(text, []).append(name)
    for place, (text, names) in enumerate(other.items()):
        lines += _row("" if place else "other code", f"{text}: {', '.join(names)}")
    return "\n".join(f"{'' if place else 'needs':<{LABEL + 1}} {line}" for place, line in enumerate(lines))


def _areas(names: Sequence[str]) -> str:
    """How many checks of each area: "updates 5, memory"."""
    counts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{area} {count}" if count > 1 else area for area, count in counts.most_common())


def _row(label: str, text: str) -> list[str]:
    """Text beside its label, or beneath one that is too long to stand beside it."""
    lines, above = wrap(text, LABEL + 2 + PART + 1), [label] if len(label) > PART else []
    return [*above, *(f"{'' if place or above else label:<{PART}} {line}" for place, line in enumerate(lines))]


def _by_part(reports: Sequence[Report]) -> dict[str, list[str]]:
    """The checks that each part of a subject opens, or parts together, most checks first, what is rare last."""
    found: dict[str, list[str]] = {}
    for report in reports:
        for name, text in report.not_applicable.items():
            parts = parts_of(text)
            for part in [" + ".join(parts)] if text == " and ".join(parts) else parts:
                found.setdefault(part, []).append(name)
    return dict(sorted(found.items(), key=lambda item: (item[0] in RARE, -len(item[1]))))


def parts_of(text: str) -> list[str]:
    """The fields of a subject among what a check needs: "loop and resume", "hyperparameters['steps']", "`roles`"."""
    from andon.verify.subject import documented  # late, as reports are also made of what other processes left

    fields = {each.name for each in documented()}
    pieces = re.split(r",? and |,? or |, ", text)
    named = [piece.partition("[")[0].partition(".")[0] for piece in pieces]
    named += re.findall(r"(?:Subject\.|`)(\w+)", text)
    return list(dict.fromkeys(name for name in named if name in fields))


def _head(text: str) -> str:
    return text.partition(": ")[0]
