"""Bugs on public record: each is found or listed as not found, and the same code without it is not accused."""

from collections.abc import Callable

import pytest

from andon.verify.run.report import RED
from tests.ordinary.session.job import checked
from tests.reports.cases import CASES, NOT_FOUND, check_case, found_by, said
from tests.reports.correct import CORRECT

LEAST_FOUND = 6  # of the eight


UNUSUAL = {
    "tempered entropy": "a policy's loss holds its advantages, and says nothing of how well a batch is learned",
    "cut evaluation": "an evaluation of the last tokens is compared with that of all",
}


def cases(known: dict[str, str]) -> list[object]:
    """The cases, those that are known to fail marked so that their mend is noticed."""
    marks = {name: pytest.mark.xfail(strict=True, reason=reason) for name, reason in known.items()}
    return [pytest.param(name, marks=marks.get(name, ())) for name in CASES]


@pytest.mark.long
@pytest.mark.parametrize("name", cases(UNUSUAL))
def test_the_code_without_the_bug_has_no_finding(name: str) -> None:
    """Behavior: no check has a finding, of either light, on the corrected code."""
    assert [] == check_case(None, (name, "fixed"))["findings"]


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_the_code_without_the_bug_is_not_accused(name: str) -> None:
    """Behavior: no check is red on the corrected code, and none could not be run."""
    findings = check_case(None, (name, "fixed"))["findings"]
    assert [] == [each for each in findings if each["light"] == RED or each["mistake"]]


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_the_bug_is_found_or_listed_as_not_found(name: str) -> None:
    """Behavior: a check tells the faulty code from the corrected, or the table says why none does, which is then true."""
    fixed = said(check_case(None, (name, "fixed")))
    assert (name not in NOT_FOUND) == bool(found_by(check_case(None, (name, "faulty")), fixed))


@pytest.mark.tier1
def test_most_are_found() -> None:
    """Behavior: at most two of the eight are listed as not found, and none that is no case."""
    assert NOT_FOUND.keys() <= CASES.keys()
    assert len(CASES) - len(NOT_FOUND) >= LEAST_FOUND


@pytest.mark.long
@pytest.mark.parametrize("make", CORRECT.values(), ids=CORRECT)
def test_correct_code_that_was_accused_is_not_accused_again(make: Callable) -> None:
    """Behavior: no finding on mixtures of any shape, wherever their tokens stand, nor on the model beside them."""
    assert [] == checked(make, 0, [])["findings"]
