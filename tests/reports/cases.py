"""Bugs on public record, each in small beside the same code without it; and what no check finds yet, with the reason."""

from collections.abc import Iterable
from typing import Any

from andon.verify.faults.inject import Fault
from andon.verify.run.report import YELLOW
from tests.ordinary.session.job import checked
from tests.reports import (
    answers_of_all_turns,
    averaged_weights,
    combined_adapters,
    cut_evaluation,
    fetched_ahead,
    routed_experts,
    second_head,
    tempered_entropy,
)
from tests.reports.correct import CORRECT

CASES = {
    "averaged weights": averaged_weights,
    "tempered entropy": tempered_entropy,
    "answers of all turns": answers_of_all_turns,
    "routed experts": routed_experts,
    "second head": second_head,
    "fetched ahead": fetched_ahead,
    "combined adapters": combined_adapters,
    "cut evaluation": cut_evaluation,
}
NOT_FOUND = {
    "tempered entropy": "two temperatures of one tensor of logits are right in a distillation",
}
Result = dict[str, Any]


def check_case(_: Fault | None, job: tuple[str, str]) -> Result:
    """What the checks say of one side of a case ("faulty", "fixed"), or of correct code that was accused ("")."""
    name, side = job
    return checked(getattr(CASES[name], side) if side else CORRECT[name], 0, [])


def said(result: Result) -> list[str]:
    """The checks that gave no pass, as they ran; what is not red has its light beside it."""
    return [f"{each['check']}{' (yellow)' * (each['light'] == YELLOW)}" for each in result["findings"]]


def found_by(faulty: Result, fixed: Iterable[str]) -> list[str]:
    """The checks that tell the faulty side from the other one; a subject that could not be run tells nothing."""
    asked = {**faulty, "findings": [each for each in faulty["findings"] if not each["mistake"]]}
    return [check for check in said(asked) if check not in set(fixed)]
