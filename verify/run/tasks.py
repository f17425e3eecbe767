"""One check of one subject: run alone, explained where it cannot be, and entered in a book of what came of each."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from andon.verify.checks import Check
from andon.verify.errors import CheckFailed, NotApplicable, SubjectError
from andon.verify.observation.protect import protected
from andon.verify.run.deadline import OutOfTime, ending
from andon.verify.run.docstring import as_finding
from andon.verify.run.explain import factory_of, not_a_subject, why
from andon.verify.run.report import FOLLOWS, UNFINISHED, Finding
from andon.verify.subject import Subject

Outcome = Finding | NotApplicable | OutOfTime | str  # a string is a pass, with what it rests on
ASKED_BEFORE = ("", "model", "batch", "loss", "logits")  # what has run unchanged before any check; "" is none of them
NOT_MEASURED = "code that takes what this check changes"


class Task(NamedTuple):
    """One check of one subject."""

    name: str
    check: Check
    subject: Subject

    @property
    def variant(self) -> str:
        """Which of the subject's variants it is of, as findings are named; empty for the subject itself."""
        return self.name.removeprefix(self.check.name)

    @property
    def lacking(self) -> str:
        """What the check needs and its subject has not; empty where nothing."""
        return " and ".join(need for need in self.check.needs if getattr(self.subject, need) in (None, {}))


@dataclass(frozen=True)
class Book:
    """What came of each task so far."""

    findings: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    not_applicable: dict[str, str] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)

    def enter(self, name: str, outcome: Outcome, seconds: float) -> None:
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

    def enter_without_passes(self, name: str, outcome: Outcome, seconds: float, premise: str) -> None:
        """Keep what came of a task that was stopped at its first forward pass, as what that gives is known."""
        self.enter(name, outcome, seconds)
        if name in self.not_run:
            self.not_run[name] = f"{FOLLOWS} {premise}"


def tasks_of(subject: Subject, checks: list[Check]) -> Iterator[Task]:
    """Each check of the subject, then of its variants.

    Raises:
        SubjectError: a variant is no Subject.
    """
    for each in checks:
        yield Task(each.name, each, subject)
    for variant, other in subject.variants.items():
        if not isinstance(other, Subject):
            raise SubjectError(f"Subject.variants[{variant!r}]: {not_a_subject(other)}")
        for each in checks:
            yield Task(f"{each.name} [{variant}]", each, other)


def run(task: Task, deadline: float | None) -> tuple[Outcome, float]:
    """What came of a check, and its seconds."""
    begun = time.monotonic()
    outcome: Outcome
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


def _provoked(error: Exception) -> bool:
    """Whether a check's own changes brought an exception about: the subject's model and loss have run as they are."""
    return not isinstance(error, SubjectError) and factory_of(error) in ASKED_BEFORE
