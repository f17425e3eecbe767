"""What the door's answers come to: how each bug was found, what correct programs were accused of, and the figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from andon.gates.evidence import Metric
from tests.door.ask import Answer
from tests.door.cases import KNOWN_BY, Case
from tests.door.causes import names

RED, YELLOW = "red", "yellow"
MISSED, UNMEASURED = "missed", "not measured"
STRENGTH = (RED, YELLOW)


@dataclass(frozen=True)
class Row:
    """One case and what was said of it."""

    program: str
    kind: str
    id: str
    area: str
    knowable_by: str
    light: str  # red, yellow, missed, not measured; of a correct program "" where nothing was said
    check: str = ""  # what named it; of a correct program what accused it
    place: str = ""
    first: bool = False  # the naming finding came before all others that correct programs do not have
    others: tuple[str, ...] = ()  # new findings that do not name it
    seconds: float = 0.0
    error: str = ""


def judged(
    case: Case, answer: Answer, accustomed: frozenset[str] = frozenset(), naming_checks: Sequence[str] = ()
) -> Row:
    """A row; `accustomed` are the findings that the program without the bug has too, which name nothing.

    `naming_checks` name the bug by their own sentence, whatever their words.
    """
    said = (case.program, case.kind, case.id, case.area, case.knowable_by)
    new = [each for each in answer.alarms if each.light in STRENGTH and f"{each.light} {each.check}" not in accustomed]
    naming = [
        each for each in new if case.kind != "fault" or each.check in naming_checks or names(case.area, each.text)
    ]
    if not naming:
        light = UNMEASURED if answer.error else MISSED if case.kind == "fault" else ""
        return Row(*said, light, others=tuple(each.check for each in new), seconds=answer.seconds, error=answer.error)
    best = min(naming, key=lambda each: STRENGTH.index(each.light))
    others = tuple(each.check for each in new if each not in naming)
    return Row(*said, best.light, best.check, best.place, new[0] in naming, others, answer.seconds, answer.error)


def accustomed(answer: Answer) -> frozenset[str]:
    """The findings of a program as it stands."""
    return frozenset(f"{each.light} {each.check}" for each in answer.alarms)


def rows(asked: Sequence[tuple[Case, Answer]]) -> list[Row]:
    """A row for each case; bugs are judged against the clean program of the same runs."""
    usual = {(case.program, case.mode): accustomed(answer) for case, answer in asked if case.kind == "clean"}
    return [
        judged(case, answer, usual.get((case.program, case.mode), frozenset()) if case.kind == "fault" else frozenset())
        for case, answer in asked
    ]


def counts(found: Sequence[Row]) -> dict[str, Any]:
    """How many bugs of each kind were found, and how many correct programs were accused."""
    faults, correct = ([row for row in found if (row.kind == "fault") == is_fault] for is_fault in (True, False))
    lit = [row for row in faults if row.light in STRENGTH]
    result: dict[str, Any] = {
        "faults": len(faults),
        "red": sum(row.light == RED for row in faults),
        "yellow": sum(row.light == YELLOW for row in faults),
        "unmeasured": sum(row.light == UNMEASURED for row in found),
        "first": sum(row.first for row in lit),
        "correct": len(correct),
        "correct_red": sum(row.light == RED for row in correct),
        "correct_lit": sum(row.light in STRENGTH for row in correct),
        "seconds": median([row.seconds for row in found]) if found else None,
    }
    for known in filter(None, KNOWN_BY):
        own = [row for row in faults if row.knowable_by == known]
        result |= {f"{known}": len(own), f"{known}_red": sum(row.light == RED for row in own)}
        result[f"{known}_lit"] = sum(row.light in STRENGTH for row in own)
    return result


def metrics(found: Sequence[Row]) -> dict[str, Metric]:
    """The same as evidence."""
    said = counts(found)
    return {name: Metric(value, "s" if name == "seconds" else "cases") for name, value in said.items()}
