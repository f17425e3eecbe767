"""Runs checks on a subject: each alone, explained where it cannot be run, within a budget, and leaving no trace."""

import difflib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.access.facts import facts_of
from andon.verify.access.roles import fields
from andon.verify.checks import CHECKS, Check
from andon.verify.errors import CheckFailed, NotApplicable, SubjectError, UnknownCheckError
from andon.verify.observation.finite import not_finite
from andon.verify.observation.protect import protected
from andon.verify.observation.tolerances import distance, rounding
from andon.verify.run.causes import PREMISES, by_cause, name_of, variant_of
from andon.verify.run.deadline import OutOfTime, ending
from andon.verify.run.docstring import as_finding
from andon.verify.run.explain import factory_of, not_a_subject, why
from andon.verify.run.reads import reads, unmet
from andon.verify.run.report import BUDGET, CANNOT_RUN, FOLLOWS, RED, UNFINISHED, YELLOW, Finding, Report, parts_of
from andon.verify.subject import Subject

Progress = Callable[[int, int, str], None]
_Outcome = Finding | NotApplicable | OutOfTime | str  # a string is a pass, with what it rests on
DEEPEST_TIER = 3
ASKED_BEFORE = ("", "model", "batch", "loss", "logits")  # what has run unchanged before any check; "" is none of them
KEPT = "; with the model's buffers put back it is the first again: right for a queue or a memory that passes fill"
NOT_MEASURED = "code that takes what this check changes"


class Task(NamedTuple):
    """One check of one subject."""

    name: str
    check: Check
    subject: Subject


@dataclass(frozen=True)
class _Book:
    """What came of each task so far."""

    findings: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    not_applicable: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    def enter(self, name: str, outcome: _Outcome, seconds: float) -> None:
        """Keep what came of a task that ran."""
        self.times[name] = seconds
        if isinstance(outcome, Finding):
            self.findings.append(outcome)
        elif isinstance(outcome, NotApplicable):
            self.not_applicable[name] = str(outcome)
        elif isinstance(outcome, OutOfTime):
            self.not_run[name] = UNFINISHED
        else:
            self.passed.append(name)
            self.notes.update({name: outcome} if outcome else {})

    def enter_without_passes(self, name: str, outcome: _Outcome, seconds: float, premise: str) -> None:
        """Keep what came of a task that was stopped at its first forward pass, as what that gives is known."""
        self.enter(name, outcome, seconds)
        if name in self.not_run:
            self.not_run[name] = f"{FOLLOWS} {premise}"


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
    tasks = list(_tasks(subject, chosen(only, tier)))
    begun = time.monotonic()
    deadline = None if budget is None else begun + budget
    book, mistakes = _Book(), {}
    for done, task in enumerate(tasks):
        stop = _reason_to_stop(task, left_out, mistakes, deadline, found=first and bool(_real(book.findings)))
        lacking = _lacking(task)
        if stop:
            book.not_run[task.name] = stop
            continue
        if lacking:
            book.not_applicable[task.name] = lacking
            continue
        progress(done, len(tasks), task.name)
        if id(task.subject) not in mistakes:
            mistakes[id(task.subject)] = _try_subject(task.subject, _suffix(task))
            book.findings.extend(filter(None, [mistakes[id(task.subject)]]))
        mistake = mistakes[id(task.subject)]
        if mistake and mistake.mistake:
            book.not_run[task.name] = CANNOT_RUN
        elif mistake:
            book.enter_without_passes(task.name, *_run(task, 0.0), mistake.check)
        else:
            book.enter(task.name, *_run(task, deadline))
    findings = _by_cause(book, tasks, left_out, deadline)
    _correct_needs(book, [task for task in tasks if not mistakes.get(id(task.subject))])
    seconds = time.monotonic() - begun
    kept = book.not_applicable, book.not_run, book.notes
    return Report(subject.name, findings, tuple(book.passed), *kept, seconds, book.times, strict)


def named(name: str) -> Check:
    """The check of this name.

    Raises:
        UnknownCheckError: there is none.
    """
    return _matching(name, exact=True)[0]


def chosen(only: Iterable[str] = (), tier: int = DEEPEST_TIER) -> list[Check]:
    """The checks up to a tier, all of them or those named.

    Raises:
        UnknownCheckError: a name is neither a check's nor an area's.
    """
    if isinstance(only, str):
        only = (only,)
    wanted = {each.name for name in only for each in _matching(name)}
    return sorted(
        (each for each in CHECKS if each.tier <= tier and (not wanted or each.name in wanted)),
        key=lambda each: each.tier,
    )


def ignored(ignore: Mapping[str, str]) -> dict[str, str]:
    """The checks that are left out, by name, with the reason; those of an area where one is named.

    Raises:
        UnknownCheckError: a name is neither a check's nor an area's.
    """
    return {each.name: f"ignored: {reason}" for name, reason in ignore.items() for each in _matching(name)}


def _matching(name: str, *, exact: bool = False) -> list[Check]:
    """Checks by name, or all of an area."""
    found = [each for each in CHECKS if each.name == name or (not exact and each.name.partition(".")[0] == name)]
    if not found:
        is_area = not exact and "." not in name
        known = {each.name.partition(".")[0] if is_area else each.name: None for each in CHECKS}
        close = difflib.get_close_matches(name, known, 3, 0.3)
        raise UnknownCheckError(
            f"{name!r} is {'not a check' if exact else 'neither a check nor an area'}; "
            f"{'closest: ' + ', '.join(close) if close else '`andon verify list` shows all'}"
        )
    return found


def _tasks(subject: Subject, checks: list[Check]) -> Iterator[Task]:
    for each in checks:
        yield Task(each.name, each, subject)
    for variant, other in subject.variants.items():
        if not isinstance(other, Subject):
            raise SubjectError(f"Subject.variants[{variant!r}]: {not_a_subject(other)}")
        for each in checks:
            yield Task(f"{each.name} [{variant}]", each, other)


def _suffix(task: Task) -> str:
    return task.name.removeprefix(task.check.name)


def _correct_needs(book: _Book, tasks: list[Task]) -> None:
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
        except Exception:  # noqa: BLE001 - as in _run; a check that asks the same will explain it
            return {}


def _lacking(task: Task) -> str:
    """What the check needs and its subject has not; empty where nothing."""
    return " and ".join(need for need in task.check.needs if getattr(task.subject, need) in (None, {}))


def _real(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if not finding.mistake]


def _reason_to_stop(
    task: Task,
    left_out: Mapping[str, str],
    mistakes: Mapping[int, Finding | None],
    deadline: float | None,
    *,
    found: bool,
) -> str:
    """Why a check is not run; empty where it is."""
    if task.check.name in left_out:
        return left_out[task.check.name]
    mistake = mistakes.get(id(task.subject))
    if mistake and mistake.mistake:
        return CANNOT_RUN
    if found:
        return "stopped at the first finding"
    return BUDGET if deadline is not None and time.monotonic() >= deadline else ""


def _run(task: Task, deadline: float | None) -> tuple[_Outcome, float]:
    """What came of a check, and its seconds."""
    begun = time.monotonic()
    outcome: _Outcome
    with protected():
        try:
            with ending(deadline):
                outcome = task.check.function(task.subject) or ""
        except (NotApplicable, OutOfTime) as lack:
            outcome = lack
        except CheckFailed as wrong:
            outcome = as_finding(task.check, wrong, task.name, time.monotonic() - begun)
        except Exception as error:  # noqa: BLE001 - user code raises what it likes; it is explained
            if _provoked(error):
                outcome = NotApplicable(f"{NOT_MEASURED} ({why(error)})")
            else:
                outcome = Finding(task.name, why(error), seconds=time.monotonic() - begun, mistake=True)
    return outcome, time.monotonic() - begun


def _by_cause(
    book: _Book, tasks: list[Task], left_out: Mapping[str, str], deadline: float | None
) -> tuple[Finding, ...]:
    """The findings, the cause first; where something was found, premises that nobody asked for are measured too."""
    by_name = {task.name: task for task in tasks}
    stopped = {variant_of(finding) for finding in book.findings if finding.check not in by_name}
    for finding in [each for each in _real(book.findings) if variant_of(each) not in stopped]:
        for premise in (each for each in CHECKS if each.name in PREMISES and each.name not in left_out):
            name = premise.name + finding.check.removeprefix(name_of(finding))
            if name not in by_name:
                by_name[name] = task = Task(name, premise, by_name[finding.check].subject)
                outcome, _ = _run(task, deadline)
                book.findings.extend([outcome] if isinstance(outcome, Finding) and not outcome.mistake else [])
    return by_cause(book.findings, lambda finding: _rests_on_passes(finding, by_name))


def _rests_on_passes(finding: Finding, tasks: Mapping[str, Task]) -> bool:
    """Whether a finding's check makes a module's forward pass: it is begun again, and stopped at the first."""
    if finding.check not in tasks:  # of the subject as a whole: `_try_subject`
        return True
    return isinstance(_run(tasks[finding.check], 0.0)[0], OutOfTime)


def _provoked(error: Exception) -> bool:
    """Whether a check's own changes brought an exception about: the subject's model and loss have run as they are."""
    return not isinstance(error, SubjectError) and factory_of(error) in ASKED_BEFORE


def _try_subject(subject: Subject, suffix: str) -> Finding | None:
    """Make a model, a batch and a loss once, so that one mistake is one message; None where all is well."""
    name = f"subject{suffix}"
    with protected():
        try:
            model, batch = new_model(subject), new_batch(subject)
            _same_device(model, batch)
            before = [buffer.detach().clone() for buffer in model.buffers()]
            first, second = _evaluated(subject, model, batch), _evaluated(subject, model, batch)
            repeats = distance(second, first) <= rounding(first)
            kept = not repeats and _repeats_from(subject, model, batch, before, first)
            facts_of(subject)  # here, so that no check finds what its first pass has changed
        except NotApplicable as lack:
            return Finding(name, f"it needs {lack}", mistake=True)
        except Exception as error:  # noqa: BLE001 - as in _run
            return Finding(name, why(error), mistake=True)
    if not bool(first.isfinite()):
        return Finding(
            f"{name}.finite",
            f"the loss of a new model on one batch, in eval mode, is {float(first)}: {not_finite(subject)}",
            "A new model's loss on a typical batch is a finite number.",
            "Silent where a loop skips such steps, or a mean over a window leaves them out.",
            "Look at the place that is named, for a division by 0, a logarithm of 0, a row in which all is masked, and "
            "weights that were allocated and never filled.",
        )
    if not repeats:
        return Finding(
            f"{name}.repeats",
            f"the loss of one model in eval mode on one batch, with one seed, was {float(first):.6g} and then "
            f"{float(second):.6g}{KEPT if kept else ''}",
            "The same weights, batch and seed give the same loss in eval mode.",
            "Silent because training only sees a little more noise; no other check can be run on it.",
            "Look for state that a forward pass keeps, for dropout that eval mode does not end, and for random "
            "generators that torch.manual_seed does not reach.",
            light=YELLOW if kept else RED,
        )
    return None


def _repeats_from(subject: Subject, model: nn.Module, batch: object, before: list[Tensor], first: Tensor) -> bool:
    """Whether the first loss comes again once the buffers are as they were."""
    buffers = list(model.buffers())
    if [buffer.shape for buffer in buffers] != [buffer.shape for buffer in before]:
        return False
    with torch.no_grad():
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return bool(distance(_evaluated(subject, model, batch), first) <= rounding(first))


def _evaluated(subject: Subject, model: nn.Module, batch: object) -> Tensor:
    with seeded(), torch.no_grad():
        return loss_of(subject, model.eval(), batch).detach().clone()


def _same_device(model: nn.Module, batch: object) -> None:
    here = {tensor.device for tensor in model.parameters()}
    for key, value in fields(batch).items():
        if isinstance(value, Tensor) and here and value.dim() and value.device not in here:
            raise SubjectError(
                f"Subject.batch() puts {key!r} on {value.device} and the model is on {', '.join(map(str, here))}; "
                f"move it there in the function"
            )
