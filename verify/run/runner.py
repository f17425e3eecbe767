"""Runs checks on a subject: each alone, explained where it cannot be run, within a budget, and leaving no trace."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from andon.verify.errors import SubjectError
from andon.verify.observation.protect import protected
from andon.verify.run.causes import by_cause, variant_of
from andon.verify.run.deadline import OutOfTime
from andon.verify.run.explain import not_a_subject
from andon.verify.run.reads import reads, unmet
from andon.verify.run.report import BUDGET, CANNOT_RUN, Finding, Report, parts_of
from andon.verify.run.selection import DEEPEST_TIER, chosen, ignored, premises
from andon.verify.run.tasks import Book, Task, run, tasks_of
from andon.verify.run.trial import try_subject
from andon.verify.subject import Subject

Progress = Callable[[int, int, str], None]


def check(
    subject: Subject,
    *,
    only: Iterable[str] = (),
    ignore: Mapping[str, str] | None = None,
    tier: int = DEEPEST_TIER,
    budget: float | None = None,
    first: bool = False,
    strict: bool = False,
    progress: Progress = lambda *_: None,
) -> Report:
    """Run all checks that apply to a subject, and to its variants, cheapest first.

    `only` names checks or whole areas ("attention"); `ignore` maps such names to the reason; `tier` leaves out what
    takes longer; checks that are not begun, or not finished, within `budget` seconds are named as such, which is not a
    pass; `first` stops at the first finding; `strict` makes yellow count as red; `progress(done, total, name)` is
    called before each check. What follows from a finding stands beneath it, and is none of its own.

    Raises:
        UnknownCheckError: `only` or `ignore` names something else than a check or an area.
        SubjectError: this is not a Subject.
    """
    if not isinstance(subject, Subject):
        raise SubjectError(not_a_subject(subject))
    left_out = ignored(ignore or {})
    tasks = list(tasks_of(subject, chosen(only, tier)))
    begun = time.monotonic()
    deadline = None if budget is None else begun + budget
    book, trials = Book(), dict[int, Finding | None]()
    for done, task in enumerate(tasks):
        stop = _reason_to_stop(task, left_out, trials, deadline, found=first and bool(_real(book.findings)))
        if stop:
            book.not_run[task.name] = stop
        elif task.lacking:
            book.not_applicable[task.name] = task.lacking
        else:
            progress(done, len(tasks), task.name)
            _run_in(book, task, trials, deadline)
    findings = _by_cause(book, tasks, left_out, deadline)
    _correct_needs(book, [task for task in tasks if not trials.get(id(task.subject))])
    seconds = time.monotonic() - begun
    kept = book.not_applicable, book.not_run, book.notes
    return Report(subject.name, findings, tuple(book.passed), *kept, seconds, book.times, strict)


def _run_in(book: Book, task: Task, trials: dict[int, Finding | None], deadline: float | None) -> None:
    """Run a task, whose subject is tried before its first, and keep what came of it."""
    subject = id(task.subject)
    if subject not in trials:
        trials[subject] = try_subject(task.subject, task.variant)
        book.findings.extend(filter(None, [trials[subject]]))
    found = trials[subject]
    if found is None:
        book.enter(task.name, *run(task, deadline))
    elif found.mistake:
        book.not_run[task.name] = CANNOT_RUN
    else:
        book.enter_without_passes(task.name, *run(task, 0.0), found.check)


def _correct_needs(book: Book, tasks: list[Task]) -> None:
    """Where a part that is lacking would not open a check, as its subject has no tokens or logits, say that instead."""
    unmet_by_subject: dict[int, dict[str, str]] = {}
    for task in tasks:
        if not parts_of(book.not_applicable.get(task.name, "")):
            continue
        known = id(task.subject)
        if known not in unmet_by_subject:
            unmet_by_subject[known] = _unmet(task.subject)
        for need in reads(task.check):
            if need in unmet_by_subject[known]:
                book.not_applicable[task.name] = unmet_by_subject[known][need]
                break


def _unmet(subject: Subject) -> dict[str, str]:
    with protected():
        try:
            return unmet(subject)
        except Exception:  # noqa: BLE001 - as in `tasks.run`; a check that asks the same will explain it
            return {}


def _real(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if not finding.mistake]


def _reason_to_stop(
    task: Task,
    left_out: Mapping[str, str],
    trials: Mapping[int, Finding | None],
    deadline: float | None,
    *,
    found: bool,
) -> str:
    """Why a check is not run; empty where it is."""
    if task.check.name in left_out:
        return left_out[task.check.name]
    tried = trials.get(id(task.subject))
    if tried and tried.mistake:
        return CANNOT_RUN
    if found:
        return "stopped at the first finding"
    return BUDGET if deadline is not None and time.monotonic() >= deadline else ""


def _by_cause(
    book: Book, tasks: list[Task], left_out: Mapping[str, str], deadline: float | None
) -> tuple[Finding, ...]:
    """The findings, the cause first; where something was found, premises that nobody asked for are measured too."""
    by_name = {task.name: task for task in tasks}
    stopped = {variant_of(finding) for finding in book.findings if finding.check not in by_name}
    asked = [by_name[each.check] for each in _real(book.findings) if variant_of(each) not in stopped]
    for task in _premises(asked, left_out):
        if task.name not in by_name:
            by_name[task.name] = task
            outcome, _ = run(task, deadline)
            book.findings.extend([outcome] if isinstance(outcome, Finding) and not outcome.mistake else [])
    return by_cause(book.findings, lambda finding: _rests_on_passes(finding, by_name))


def _premises(tasks: list[Task], left_out: Mapping[str, str]) -> Iterator[Task]:
    """The premises of tasks of each subject, save those that are left out."""
    for task in tasks:
        for premise in premises():
            if premise.name not in left_out:
                yield Task(premise.name + task.variant, premise, task.subject)


def _rests_on_passes(finding: Finding, tasks: Mapping[str, Task]) -> bool:
    """Whether a finding's check makes a module's forward pass: it is begun again, and stopped at the first."""
    if finding.check not in tasks:  # of the subject as a whole: `try_subject`
        return True
    return isinstance(run(tasks[finding.check], 0.0)[0], OutOfTime)
