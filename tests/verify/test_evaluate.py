"""Faults are evaluated: what the checks say with a fault and without becomes its row."""

from collections.abc import Generator
from dataclasses import replace

import pytest

from andon.verify.errors import SubjectError
from andon.verify.faults.detect import Found, Result
from andon.verify.faults.evaluate import detected, drop_false_alarms, evaluate, judged, ordered, run_unit_tests
from andon.verify.faults.generic import GENERIC_FAULTS
from andon.verify.faults.inject import Fault
from andon.verify.faults.jobs import Outcome
from andon.verify.faults.rows import ABSENT, CHECK, ERROR, FOUND, PARITY, UNFOUND, Row, counts, order
from andon.verify.run.report import RED, YELLOW

BLANK = Row("off-by-one", "shapes", "historical", "nothing is seen", "some/where#1")
SEEN = Found("shapes.count", "llama", 2, "2 shapes, and 1 is there", 0.5, raised=False)
PARITY_SEEN = SEEN._replace(check="reference.logits")
FAULT = Fault("f", "shapes", "pattern", "", "x", "andon.core:f", "1", "2", test="tests/x.py::test_y")


def answers(*outcomes: Outcome) -> Generator[Outcome]:
    """Outcomes as processes would send them."""
    yield from outcomes


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("outcome", "state", "way"),
    [
        (Outcome(0, Result(("loss",), (SEEN,)), "", 3.0), FOUND, CHECK),
        (Outcome(0, Result(("loss",), (PARITY_SEEN,)), "", 3.0), FOUND, PARITY),
        (Outcome(0, Result(("loss",), ()), "", 3.0), UNFOUND, ""),
        (Outcome(0, Result((), (SEEN,)), "", 3.0), ERROR, ""),
        (Outcome(0, Result((), (), "step"), "", 3.0), ABSENT, ""),
        (Outcome(0, None, "killed: longer than 90 s", 90.0), ERROR, ""),
    ],
    ids=["by a check", "by parity", "unfound", "not live", "not applicable", "killed"],
)
def test_a_fault_is_judged_by_what_its_process_sent(outcome: Outcome, state: str, way: str) -> None:
    """Behavior: found counts only where the fault is live, and parity with a reference is told apart."""
    row = judged(BLANK, outcome)
    assert (state, way) == (row.state, row.way)


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("names", "place"), [(("shapes.count",), 1), (("shapes.order",), 2), (("loss.scale",), 0), ((), None)]
)
def test_the_place_of_the_naming_check_is_counted(names: tuple[str, ...], place: int | None) -> None:
    """Behavior: among the findings of the subject that showed the fault first; 0 where none of them names it."""
    others = SEEN._replace(check="shapes.order [wide]", place=2), SEEN._replace(subject="packed", check="loss.scale")
    outcome = Outcome(0, Result(("loss",), (SEEN, *others)), "", 3.0)
    row = ordered(judged(BLANK, outcome), outcome, names)
    assert (2, place, "red") == (row.findings, row.place, row.light)
    assert UNFOUND == ordered(BLANK, Outcome(0, Result(("loss",), ()), "", 1.0), names).state


@pytest.mark.tier1
def test_a_catalogue_says_how_many_findings_a_fault_makes() -> None:
    """Behavior: the median, and the share that the first finding names; null where nothing was counted."""
    rows = [replace(BLANK, findings=count, place=place) for count, place in ((1, 1), (2, 0), (5, 1), (3, None))]
    assert {"findings_median": 2.5, "named_first": 2 / 3} == order(rows)
    assert {"findings_median": None, "named_first": None} == order([BLANK])


@pytest.mark.tier1
def test_a_catalogue_counts_lights_and_kinds_of_faults() -> None:
    """Behavior: red and yellow apart; an error has been injected, is not live, and counts for no kind."""
    red, yellow = replace(BLANK, state=FOUND, way=CHECK, light=RED), replace(BLANK, state=FOUND, light=YELLOW)
    found = counts([red, red, yellow, replace(BLANK, state=ERROR), replace(BLANK, state=ABSENT)])
    expected = {"injected": 4, "live": 3, "found_red": 2, "found_yellow": 1, "historical": 3, "pattern": 0}
    assert expected == {key: found[key] for key in expected}


@pytest.mark.tier1
def test_a_check_that_alarms_without_the_fault_has_found_nothing() -> None:
    """Behavior: a finding that the clean subject gives too becomes an error that names the check."""
    row = Row("a", "shapes", "historical", "x", state=FOUND, way=CHECK, checks=("shapes.count",), subject="llama")
    rows = {0: row}
    drop_false_alarms(rows, "t:S", lambda work, jobs: answers(Outcome(0, [SEEN], "", 1.0)), lambda row: None)
    assert (ERROR, "shapes.count also finds something without the fault") == (rows[0].state, rows[0].detail)


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("injected", "clean", "state"),
    [(True, False, FOUND), (False, False, UNFOUND), (True, True, ERROR)],
    ids=["red with the fault", "green with the fault", "red without"],
)
def test_a_unit_test_finds_what_it_is_red_with_and_green_without(injected: bool, clean: bool, state: str) -> None:
    """Behavior: the test runs with and without the fault; red without it, it says nothing."""
    rows = {0: BLANK}
    outcomes = (Outcome(0, injected, "", 1.0), Outcome(1, clean, "", 1.0))
    noted: list[Row] = []
    run_unit_tests(rows, [FAULT], lambda work, jobs: answers(*outcomes), noted.append)
    assert [rows[0]] == noted
    assert state == rows[0].state


@pytest.mark.tier2
def test_a_subject_that_cannot_run_ends_the_evaluation() -> None:
    """Behavior: the message names the target, the subject and what its process said."""
    dead = Outcome(0, None, "killed: longer than 90 s", 90.0)
    with pytest.raises(SubjectError, match=r"small cannot be run: killed: longer"):
        list(
            detected(
                "tests.verify.small:small",
                [GENERIC_FAULTS[0]],
                lambda work, jobs: answers(dead),
                every=False,
                together=1,
            )
        )


@pytest.mark.long
def test_a_subject_is_evaluated_by_faults_that_fit_it() -> None:
    """Behavior: each fault has a row, noted as it is known: found by a check, or not applicable."""
    faults = [fault for fault in GENERIC_FAULTS if fault.id in ("future-leak", "resume-one-late")]
    noted: list[Row] = []
    rows = evaluate("tests.verify.small:small", faults, workers=1, note=noted.append)
    assert {"future-leak": FOUND, "resume-one-late": ABSENT} == {row.fault: row.state for row in rows}
    assert sorted(noted, key=lambda row: row.fault) == sorted(rows, key=lambda row: row.fault)


@pytest.mark.tier1
def test_generic_faults_have_names_of_their_own() -> None:
    """Behavior: at least 25, none twice, each with an area and what it does."""
    assert 25 <= len(GENERIC_FAULTS) == len({fault.id for fault in GENERIC_FAULTS})
    assert all(fault.area and fault.what for fault in GENERIC_FAULTS)
