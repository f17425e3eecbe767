"""Runs a release through `andon verify`, as its user would, and compares it with the release without the bug."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.known_bugs.releases import InstallError, Release, base, installed, variables

LIMIT = 600.0  # seconds of one release
Findings = dict[str, str]  # "check", or "subject: check" where there are several, to what was measured


class Answer(NamedTuple):
    """What `andon verify` said of one release."""

    version: str
    findings: Findings
    mistakes: Findings  # checks that could not run
    checked: int
    seconds: float


class Result(NamedTuple):
    """A bug, and whether a check sees it."""

    id: str
    wrong: Answer
    right: Answer | None

    def found(self, release: Release) -> Findings:
        """The findings that the right release does not have; where the list names the bug's own, only these."""
        known = self.right.findings.keys() | self.right.mistakes.keys() if self.right else set()
        found = {name: text for name, text in self.wrong.findings.items() if name not in known}
        named = release.shows or self.right is None
        return {name: text for name, text in found.items() if name in release.shows} if named else found

    def others(self, release: Release) -> Findings:
        """Findings beside the bug, on the newest release checked: each is a bug too, or a false alarm."""
        if self.right is not None:
            return self.right.findings
        found = self.found(release)
        return {name: text for name, text in self.wrong.findings.items() if name not in found}


def compare(release: Release, say: Callable[[str], None]) -> Result:
    """Both releases' answers.

    Raises:
        InstallError: one cannot be installed, or gave no answer.
    """
    python = base(say)
    wrong = _answer(release, "wrong", python, say)
    return Result(release.id, wrong, _answer(release, "right", python, say) if release.right else None)


def as_json(result: Result) -> dict[str, Any]:
    """All fields, by name."""
    right = result.right._asdict() if result.right else None
    return {"id": result.id, "wrong": result.wrong._asdict(), "right": right}


def from_json(content: dict[str, Any]) -> Result:
    """What `as_json` made."""
    right = Answer(**content["right"]) if content["right"] else None
    return Result(content["id"], Answer(**content["wrong"]), right)


def _answer(release: Release, which: str, python: Path, say: Callable[[str], None]) -> Answer:
    target = installed(python, release.pins[which], say)
    version = getattr(release, which)
    command = [
        str(python),
        "-W",
        "ignore",
        "-m",
        "andon",
        "verify",
        f"tests.known_bugs.subjects:{release.subject}",
        "--json",
    ]
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=variables(release, target), timeout=LIMIT
        )
    except subprocess.TimeoutExpired as late:
        raise InstallError(f"{release.package} {version}: no answer within {LIMIT:g} s") from late
    start = done.stdout.find("[\n")
    if start < 0:
        raise InstallError(f"{release.package} {version}: {(done.stderr or done.stdout)[-800:]}")
    return read(version, json.loads(done.stdout[start:]), time.monotonic() - begun)


def read(version: str, reports: list[dict[str, Any]], seconds: float) -> Answer:
    """An answer of `andon verify --json`.

    Raises:
        InstallError: the subject could not run at all.
    """
    findings: Findings = {}
    mistakes: Findings = {}
    for report in reports:
        for finding in report["findings"]:
            of = f"{report['subject']}: " if len(reports) > 1 else ""
            name = f"{of}{finding['check']}"
            (mistakes if finding["mistake"] else findings)[name] = finding["message"]
            findings |= {f"{of}{each}": f"follows from {name}" for each in finding.get("follows", ())}
    checked = sum(len(report["passed"]) for report in reports) + len(findings)
    if not checked:
        raise InstallError(f"{version} could not run: {'; '.join(mistakes.values())[:800]}")
    return Answer(version, findings, mistakes, checked, round(seconds, 1))
