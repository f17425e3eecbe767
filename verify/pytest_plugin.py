"""pytest: each check of a subject is a test of its own. Nothing here imports torch before a subject is given.

@verify.parametrize(subject)
def test_training(check):
    check()
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from andon.verify.run.report import Report
    from andon.verify.subject import Subject

_reports: "list[Report]" = []  # of this session, for its last lines
_told: set[tuple[int, str]] = set()  # subjects, by what was found of them that is no check's own


def parametrize(
    subject: "Subject | Callable[[], Subject] | Mapping[str, Subject | Callable[[], Subject]] | str",
    *,
    only: tuple[str, ...] = (),
    ignore: Mapping[str, str] | None = None,
    tier: int = 3,
    strict: bool = False,
) -> pytest.MarkDecorator:
    """Give a test each check in turn, as the argument `check`: a function that passes, fails or skips.

    `subject` is a Subject, a function that returns one, a dict of subjects, or "package.module:subject". `only` names
    checks or whole areas; `ignore` maps them to the reason. A check that needs what the subject lacks is skipped and
    says what that is, and so is one whose finding follows from another check's here. A yellow finding is a warning,
    with `strict` a failure.

    Raises:
        SubjectError, UnknownCheckError: as `check`.
    """
    from andon.verify.run.selection import chosen, ignored
    from andon.verify.run.target import subjects

    ignored(ignore or {})  # refuses what is not a check, before any runs
    found = subjects(subject)
    parameters = []
    beside = {check.name for check in chosen(only, tier)}
    for name, each in found.items():
        for check in chosen(only, tier):
            identity = check.name if len(found) == 1 else f"{name}-{check.name}"
            run = partial(_run, each, check.name, ignore or {}, strict=strict, beside=frozenset(beside))
            parameters.append(pytest.param(run, id=identity))
    return pytest.mark.parametrize("check", parameters)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much applied."""
    if _reports:
        from andon.verify.run.report import headline

        terminalreporter.write_line(f"andon: {headline(_reports)}")


def _is_told_elsewhere(subject: "Subject", cause: str, name: str, beside: frozenset[str]) -> bool:
    """Whether another test fails by this cause: the cause's own, or the first that met what is no check's."""
    own = cause.partition(" [")[0]
    if own == name or own in beside:
        return own != name
    told = (id(subject), cause) in _told
    _told.add((id(subject), cause))
    return told


def _run(subject: "Subject", name: str, ignore: Mapping[str, str], *, strict: bool, beside: frozenset[str]) -> None:
    """One check, of the subject and its variants; what makes it fail fails once."""
    from andon.verify.errors import UnusualWarning
    from andon.verify.run.report import render_text
    from andon.verify.run.runner import check

    __tracebackhide__ = True
    report = check(subject, only=(name,), ignore=ignore, strict=strict)
    worst = report.findings[0] if report.findings else None
    if worst and _is_told_elsewhere(subject, worst.check, name, beside):
        pytest.skip(f"follows from {worst.check}")
    _reports.append(report)
    if worst and not report.exit_code:
        warnings.warn(f"{worst.check}: {worst.message}", UnusualWarning, stacklevel=1)
        return
    if worst:
        pytest.fail(f"{worst.check}: {worst.message}\n\n{render_text(report, quiet=True)}", pytrace=False)
    if not report.passed:
        needs = [f"needs {what}" for what in report.not_applicable.values()]
        pytest.skip("; ".join(dict.fromkeys([*needs, *report.not_run.values()])))
