"""What the checks make of an injected fault: each function here is a job of `run_jobs`, in a process of its own."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from andon.verify.checks import CHECKS
from andon.verify.faults.generic import BY_ID
from andon.verify.faults.inject import Fault
from andon.verify.observation.fingerprint import Fingerprint, changes, fingerprint
from andon.verify.run.report import RED
from andon.verify.run.runner import check
from andon.verify.run.target import load_one
from andon.verify.subject import Subject

PARITY = "reference"  # the area of checks that compare with another implementation


class Task(NamedTuple):
    """Which faults to detect, in which subjects."""

    target: str  # "tests.subjects:SUBJECTS": a mapping of names to functions that make a subject
    subjects: tuple[str, ...]
    clean: Mapping[str, Mapping[str, Fingerprint]]  # what was seen of each subject without a fault
    every: bool = False  # run all checks, and do not stop at the first finding
    generic: str = ""  # the id of a generic fault, put around the subject instead of into a module


class Found(NamedTuple):
    """A check that detected the fault."""

    check: str
    subject: str
    tier: int
    message: str
    seconds: float  # until then, over all checks of all subjects
    raised: bool  # the subject could not be run any more, which is loud, and says nothing of the check
    light: str = RED
    place: int = 1  # among its subject's findings; those that follow from one have none of their own


class Result(NamedTuple):
    """What came of detecting a fault."""

    live: tuple[str, ...]  # what differs from the clean subject; empty where nothing does
    found: tuple[Found, ...]
    needs: str = ""  # what a generic fault cannot be injected without


def fingerprints(fault: Fault | None, task: Task) -> dict[str, dict[str, Fingerprint]]:
    """The fingerprints of the task's subjects."""
    del fault
    return {name: fingerprint(load_one(task.target, name)) for name in task.subjects}


def detect(fault: Fault | None, task: Task) -> Result:
    """What differs, and which checks find it; those that need a reference come last, when all others see nothing."""
    del fault
    subjects = _injected(task)
    if not subjects:
        return Result((), (), BY_ID[task.generic].factory)
    live = _first_changed(subjects, task.clean)
    found, seconds = list[Found](), 0.0
    for chosen in _rounds(together=task.every):
        for name, subject in subjects.items():
            if task.every or all(each.raised for each in found):
                more, spent = _findings(subject, name, chosen, seconds, every=task.every)
                found, seconds = [*found, *more], seconds + spent
    return Result(live, tuple(sorted(found, key=lambda each: each.raised)))


def _injected(task: Task) -> dict[str, Subject]:
    """The task's subjects; of a generic fault, those that it can be put around, with it."""
    subjects = {name: load_one(task.target, name) for name in task.subjects}
    if not task.generic:
        return subjects
    inject = BY_ID[task.generic].inject
    return {name: faulty for name, subject in subjects.items() if (faulty := inject(subject))}


def _first_changed(subjects: Mapping[str, Subject], clean: Mapping[str, Mapping[str, Fingerprint]]) -> tuple[str, ...]:
    """What differs of the first subject that is not as it was without a fault; empty where all are."""
    for name, subject in subjects.items():
        if changed := changes(subject, clean[name]):
            return tuple(f"{name}: {key}" for key in changed)
    return ()


def _rounds(*, together: bool) -> list[list[str]]:
    """The checks by name: those that compare with another implementation in a round of their own, or all together."""
    own = [each.name for each in CHECKS if each.name.partition(".")[0] != PARITY]
    parity = [each.name for each in CHECKS if each.name not in own]
    rounds = [[*own, *parity]] if together else [own, parity]
    return [names for names in rounds if names]  # none would mean every check


def alarms(fault: Fault | None, task: Task) -> list[Found]:
    """Findings on subjects without a fault: none of them may be one. `subjects` holds "name/check" to run."""
    del fault
    found: list[Found] = []
    for name in dict.fromkeys(pair.partition("/")[0] for pair in task.subjects):
        named = [pair.partition("/")[2] for pair in task.subjects if pair.partition("/")[0] == name]
        chosen = [each.name for each in CHECKS if each.name in named]
        if chosen:
            found += _findings(load_one(task.target, name), name, chosen, 0.0, every=True)[0]
    return found


def unit_test(fault: Fault | None, name: str) -> bool:
    """Whether a unit test is red.

    Raises:
        RuntimeError: it could not be run.
    """
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", name])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{name}: pytest ended with {code!r}{f' under {fault.id}' if fault else ''}")
    return code == pytest.ExitCode.TESTS_FAILED


def _findings(
    subject: Subject, name: str, chosen: list[str], before: float, *, every: bool
) -> tuple[list[Found], float]:
    report = check(subject, only=chosen, first=not every)
    tiers = {each.name: each.tier for each in CHECKS}
    real = [finding for finding in report.findings if not finding.mistake]
    found = [
        Found(
            finding.check,
            name,
            tiers.get(finding.check.partition(" [")[0], 1),
            finding.message.partition("\n")[0],
            before + report.seconds,
            finding.mistake,
            finding.light,
            place,
        )
        for place, finding in enumerate(real or report.findings, start=1)
    ]
    return found, report.seconds
