"""Inject faults one at a time and find out which check finds each: a row for every fault."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from andon.verify.errors import SubjectError
from andon.verify.faults import detect
from andon.verify.faults.detect import Found, Result, Task
from andon.verify.faults.generic import GenericFault
from andon.verify.faults.inject import Fault
from andon.verify.faults.jobs import LIMIT, Argument, Outcome, Value, run_jobs
from andon.verify.faults.rows import ABSENT, CHECK, ERROR, FOUND, PARITY, TEST, UNFOUND, Row
from andon.verify.observation.fingerprint import Fingerprint
from andon.verify.run.target import load

WARM = ("numpy", "pydantic", "safetensors.torch", "tokenizers", "torch", "torch.optim", "torch._dynamo")
TOGETHER = 4  # faults between two looks at the clock, where there is a deadline

Clean = Mapping[str, Mapping[str, Fingerprint]]  # by subject, what was seen of it without a fault


class Run(Protocol):
    """Runs a function on jobs, each in a process of its own."""

    def __call__(
        self, work: Callable[[Fault | None, Argument], Value], jobs: Sequence[tuple[Fault | None, Argument]], /
    ) -> Generator[Outcome[Value]]:
        """Outcomes as they are ready."""
        ...


def evaluate(
    target: str,
    faults: Sequence[Fault | GenericFault],
    *,
    every: bool = False,
    workers: int = 2,
    limit: float = LIMIT,
    deadline: float | None = None,
    note: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """A row for each fault. A finding counts only if the same check passes on the same subject without the fault.

    Faults in source are injected into their modules, and the target's subjects that they name are checked; faults that
    fit any subject are put around each of the target's. `every` runs all checks, instead of stopping at the first
    finding. `deadline`, on time.monotonic's clock, ends it with the rows so far. `note` gets each row once it is known.

    Raises:
        SubjectError: a subject cannot be run without any fault.
    """

    def run(
        work: Callable[[Fault | None, Argument], Value], jobs: Sequence[tuple[Fault | None, Argument]], /
    ) -> Generator[Outcome[Value]]:
        return run_jobs(jobs, work, workers=workers, limit=limit, warm=[*WARM, detect.__name__])

    rows: dict[int, Row] = {}
    for place, outcome in detected(target, faults, run, every=every, together=TOGETHER if deadline else len(faults)):
        rows[place] = judged(blank(faults[place]), outcome)
        if every:
            rows[place] = ordered(rows[place], outcome, named_by(faults[place]))
        if rows[place].state == FOUND or not unit_test_of(faults[place]):
            note(rows[place])
        if deadline and time.monotonic() > deadline:
            break
    run_unit_tests(rows, faults, run, note)
    drop_false_alarms(rows, target, run, note)
    return [rows[place] for place in sorted(rows)]


def detected(
    target: str, faults: Sequence[Fault | GenericFault], run: Run, *, every: bool, together: int
) -> Iterator[tuple[int, Outcome[Result]]]:
    """Place and outcome of each fault, so many faults together; each subject is first looked at without a fault."""
    clean: dict[str, Mapping[str, Fingerprint]] = {}
    for start in range(0, len(faults), together):
        some = faults[start : start + together]
        names = subjects_of(target, some)
        new = [name for name in names if name not in clean]
        for outcome in run(detect.fingerprints, [(None, Task(target, (name,), {})) for name in new]):
            if outcome.value is None:
                raise SubjectError(f"{target}: {new[outcome.place]} cannot be run: {outcome.error}")
            clean |= outcome.value
        jobs = [_job(fault, target, names, clean, every=every) for fault in some]
        for outcome in run(detect.detect, jobs):
            yield start + outcome.place, outcome


def subjects_of(target: str, faults: Sequence[Fault | GenericFault]) -> tuple[str, ...]:
    """The target's subjects that these faults need: those that faults in source name, all for the others."""
    names = [name for fault in faults if isinstance(fault, Fault) for name in fault.subjects]
    return tuple(
        dict.fromkeys([*names, *(load(target) if any(isinstance(each, GenericFault) for each in faults) else ())])
    )


def _job(
    fault: Fault | GenericFault, target: str, names: tuple[str, ...], clean: Clean, *, every: bool
) -> tuple[Fault | None, Task]:
    if isinstance(fault, Fault):
        own = {name: clean[name] for name in fault.subjects}
        return fault, Task(target, fault.subjects, own, every)
    return None, Task(target, names, clean, every, fault.id)


def unit_test_of(fault: Fault | GenericFault) -> str:
    """The unit test that a fault in source names, where checks cannot reach it; else empty."""
    return fault.test if isinstance(fault, Fault) else ""


def blank(fault: Fault | GenericFault) -> Row:
    """The row of a fault of which nothing is known yet."""
    if isinstance(fault, Fault):
        return Row(fault.id, fault.area, fault.status, fault.symptom, fault.source)
    return Row(fault.id, fault.area, "", fault.what)


def judged(row: Row, outcome: Outcome[Result]) -> Row:
    """The row with what the checks found."""
    result = outcome.value
    if result is None:
        return replace(row, state=ERROR, detail=outcome.error, seconds=outcome.seconds)
    if result.needs:
        return replace(row, state=ABSENT, detail=f"needs {result.needs}")
    if not result.live:
        return replace(row, state=ERROR, detail="not live: it changes nothing observable of its subjects")
    if not result.found:
        return replace(row, detail=f"differs in {', '.join(result.live[:3])}", seconds=outcome.seconds)
    first = result.found[0]
    if first.raised:
        return replace(row, state=ERROR, detail=f"not silent: {first.message}", seconds=outcome.seconds)
    checks = tuple(dict.fromkeys(found.check for found in result.found if not found.raised))
    way = PARITY if first.check.partition(".")[0] == detect.PARITY else CHECK
    return replace(
        row, state=FOUND, way=way, checks=checks, subject=first.subject, tier=first.tier,
        seconds=first.seconds, detail=first.message, light=first.light,
    )  # fmt: skip


def named_by(fault: Fault | GenericFault) -> tuple[str, ...]:
    """The checks that name the cause of a fault in source; none where nobody says which."""
    return fault.named_by if isinstance(fault, Fault) else ()


def ordered(row: Row, outcome: Outcome[Result], names: Sequence[str]) -> Row:
    """The row with how many findings its subject's report has, and the place of the first that names the cause."""
    if row.state != FOUND or outcome.value is None:
        return row
    found = [each for each in outcome.value.found if each.subject == row.subject and not each.raised]
    named = [each.place for each in found if each.check.partition(" [")[0] in names]
    return replace(row, findings=len(found), place=min(named, default=0) if names else None)


def run_unit_tests(
    rows: dict[int, Row], faults: Sequence[Fault | GenericFault], run: Run, note: Callable[[Row], None]
) -> None:
    """Faults that no check finds, by their unit tests: one finds a fault if it is red with it and green without."""
    unseen = [place for place, row in rows.items() if row.state in (UNFOUND, ERROR)]
    names = {place: name for place in unseen if (name := unit_test_of(faults[place]))}
    injected = [(fault, name) for place, name in names.items() if isinstance(fault := faults[place], Fault)]
    clean = list(dict.fromkeys(names.values()))
    jobs: list[tuple[Fault | None, str]] = [*injected, *((None, name) for name in clean)]
    outcomes = {outcome.place: outcome for outcome in run(detect.unit_test, jobs)}
    for number, (place, name) in enumerate(names.items()):
        without = outcomes[len(injected) + clean.index(name)]
        rows[place] = _judged_by_test(rows[place], name, outcomes[number], without)
        note(rows[place])


def _judged_by_test(row: Row, name: str, outcome: Outcome[bool], clean: Outcome[bool]) -> Row:
    """The row with what a unit test says with the fault and without."""
    broken = outcome.error or clean.error or ("is red without any fault" if clean.value else "")
    if broken:
        return replace(row, state=ERROR, detail=f"{name} {broken}")
    if outcome.value:
        return replace(row, state=FOUND, way=TEST, checks=(name,), seconds=outcome.seconds, detail="")
    return row


def drop_false_alarms(rows: dict[int, Row], target: str, run: Run, note: Callable[[Row], None]) -> None:
    """A check that also finds something without the fault has not found the fault."""
    finders: dict[str, set[str]] = {}
    for row in rows.values():
        if row.state == FOUND and row.way != TEST:
            finders.setdefault(row.subject, set()).update(f"{row.subject}/{check}" for check in row.checks)
    jobs = [(None, Task(target, tuple(sorted(pairs)), {})) for pairs in finders.values()]
    for outcome in run(detect.alarms, jobs):
        subject = list(finders)[outcome.place]
        for place, row in rows.items():
            if why := _false_alarm(row, subject, outcome):
                rows[place] = replace(row, state=ERROR, way="", checks=(), detail=why)
                note(rows[place])


def _false_alarm(row: Row, subject: str, outcome: Outcome[list[Found]]) -> str:
    """Why a row's findings do not count, by what its checks found without the fault; empty where they do."""
    found = {(each.subject, each.check) for each in outcome.value or ()}
    for check in row.checks:
        if (row.subject, check) in found:
            return f"{check} also finds something without the fault"
    return f"the clean subject: {outcome.error}" if outcome.error and row.subject == subject else ""
