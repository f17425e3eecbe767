"""pytest: each check of a subject is a test of its own. Nothing here imports torch before a subject is given.

@verify.parametrize(subject)
def test_training(check):
    check()
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from andon.verify.run.report import Report
    from andon.verify.subject import Subject

_reports: "list[Report]" = []  # of this session, for its last lines


def parametrize(
    subject: "Subject | Callable[[], Subject] | Mapping[str, Subject | Callable[[], Subject]] | str",
    *,
    only: tuple[str, ...] = (),
    ignore: Mapping[str, str] | None = None,
    tier: int = 3,
) -> pytest.MarkDecorator:
    """Give a test each check in turn, as the argument `check`: a function that passes, fails or skips.

    `subject` is a Subject, a function that returns one, a dict of subjects, or "package.module:subject". `only` names
    checks or whole areas; `ignore` maps them to the reason. A check that needs what the subject lacks is skipped and
    says what that is.

    Raises:
        SubjectError, UnknownCheckError: as `check`.
    """
    from andon.verify.run.runner import chosen, ignored
    from andon.verify.run.target import subjects

    ignored(ignore or {})  # refuses what is not a check, before any runs
    found = subjects(subject)
    parameters = []
    for name, each in found.items():
        for check in chosen(only, tier):
            identity = check.name if len(found) == 1 else f"{name}-{check.name}"
            parameters.append(pytest.param(partial(_run, each, check.name, ignore or {}), id=identity))
    return pytest.mark.parametrize("check", parameters)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much applied."""
    if _reports:
        from andon.verify.run.report import headline

        terminalreporter.write_line(f"andon: {headline(_reports)}")


def _run(subject: "Subject", name: str, ignore: Mapping[str, str]) -> None:
    """One check, of the subject and its variants."""
    from andon.verify.run.report import render_text
    from andon.verify.run.runner import check

    __tracebackhide__ = True
    report = check(subject, only=(name,), ignore=ignore)
    _reports.append(report)
    if report.found:
        worst = report.findings[0]
        pytest.fail(f"{worst.check}: {worst.message}\n\n{render_text(report, quiet=True)}", pytrace=False)
    if not report.passed:
        needs = [f"needs {what}" for what in report.not_applicable.values()]
        pytest.skip("; ".join(dict.fromkeys([*needs, *report.not_run.values()])))
