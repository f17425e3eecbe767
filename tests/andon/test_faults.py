"""`andon faults`: what becomes of planted faults is judged, counted and shown as it is."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from andon import faults, matrix
from andon.matrix import ABSENT, CHECK, ERROR, FOUND, PARITY, TEST, UNFOUND, Row
from verify.blackbox import BLACKBOX
from verify.hunt import Found, Result
from verify.plant import Outcome

ROOT = Path(__file__).parents[2]
BLANK = Row("off-by-one", "rooms", "historical", "nothing is seen", "some/where#1")
SEEN = Found("rooms.count", "llama", 2, "2 rooms, and 1 is there", 0.5, raised=False)
PARITY_SEEN = SEEN._replace(check="reference.logits")
ROWS = [
    Row(
        "a",
        "rooms",
        "historical",
        "x",
        state=FOUND,
        way=CHECK,
        checks=("rooms.count", "rooms.doors"),
        tier=1,
        seconds=1,
    ),
    Row("b", "rooms", "pattern", "x", state=FOUND, way=PARITY, checks=("reference.logits",), tier=2, seconds=2),
    Row("c", "doors", "transposed", "x", state=FOUND, way=TEST, checks=("tests/x.py::test_y",)),
    Row("d", "doors", "historical", "x", state=UNFOUND, detail="differs in loss"),
    Row("e", "doors", "historical", "<script>", state=ERROR, detail="no longer applies"),
]


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
    """Behaviour: found counts only where the fault is live, and parity with a reference is told apart."""
    row = faults.judged(BLANK, outcome, parity="reference")
    assert (state, way) == (row.state, row.way)


@pytest.mark.tier1
def test_a_check_that_alarms_without_the_fault_has_found_nothing() -> None:
    """Behaviour: a finding that the clean subject gives too becomes an error that names the check."""
    row = Row("a", "rooms", "historical", "x", state=FOUND, way=CHECK, checks=("rooms.count",), subject="llama")
    rows = {0: row}
    hunt = SimpleNamespace(alarms=None, Task=lambda *fields: fields)
    faults.distrusted(rows, "t:S", lambda work, jobs: [Outcome(0, [SEEN], "", 1.0)], hunt, lambda row: None)
    assert (ERROR, "rooms.count alarms without the fault, too") == (rows[0].state, rows[0].detail)


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("planted", "clean", "state"),
    [(True, False, FOUND), (False, False, UNFOUND), (True, True, ERROR)],
    ids=["red with the fault", "green with the fault", "red without"],
)
def test_a_unit_test_finds_what_it_is_red_with_and_green_without(planted: bool, clean: bool, state: str) -> None:
    """Behaviour: the test runs with and without the fault; red without it, it says nothing."""
    rows = {0: BLANK}
    outcomes = [Outcome(0, planted, "", 1.0), Outcome(1, clean, "", 1.0)]
    fault = SimpleNamespace(test="tests/x.py::test_y")
    noted: list[Row] = []
    faults.tested(rows, [fault], lambda work, jobs: outcomes, None, noted.append)
    assert [rows[0]] == noted
    assert state == rows[0].state


@pytest.mark.tier1
def test_counts_tell_apart_who_found_it() -> None:
    """Behaviour: found by checks, by parity alone and by a unit test alone are counted apart; errors are not live."""
    found = matrix.counts(ROWS)
    assert (5, 4, 3, 1, 1, 1, 1, 1) == tuple(
        found[key]
        for key in (
            "planted",
            "live",
            "found",
            "found_by_check",
            "found_by_parity",
            "found_by_unit_test",
            "unfound",
            "errors",
        )
    )
    assert "historical: 1 of 2 found" in matrix.summary(ROWS)
    assert [*ROWS] == matrix.from_json(json.loads(matrix.as_json(ROWS, {})))
    assert ["all", "4", "1", "1", "1", "1"] == matrix.by_area(ROWS)[-1]


@pytest.mark.tier1
def test_lines_fit_a_terminal_and_unfound_ones_say_what_differs() -> None:
    """Behaviour: at most 100 columns; more checks than one are counted."""
    lines = [line for row in ROWS for line in matrix.line(row).splitlines()]
    assert 100 >= max(map(len, lines))
    assert "rooms.count +1" in lines[0]
    assert any("differs in loss" in line for line in lines)


@pytest.mark.tier1
def test_the_picture_escapes_what_it_shows() -> None:
    """Behaviour: the page holds every fault, no script, and no text as markup."""
    page = matrix.picture(ROWS)
    assert page.count("<svg viewBox") == 1
    drawn = page[page.index("<svg viewBox") :]
    classes = re.findall(r'<a href="#(.)"><rect class="(\w+)"', drawn)
    assert [("a", "check"), ("b", "parity"), ("c", "test"), ("d", "unfound"), ("e", "error")] == classes
    assert all(f".{name} {{ fill: " in page for _, name in classes)
    assert "<script>" not in page
    assert all(f'id="{row.fault}"' in page for row in ROWS)


@pytest.mark.tier1
def test_faults_are_chosen_by_name_and_area() -> None:
    """Behaviour: --only takes a fault, an area, or how names begin, and refuses what is neither."""
    assert ["future-leak"] == [fault.id for fault in faults.chosen("x:y", ["future-leak"])]
    assert {"gradients"} == {fault.area for fault in faults.chosen("x:y", ["gradients"])}
    with pytest.raises(faults.FaultsError, match="names no fault; areas are loss"):
        faults.chosen("x:y", ["no-such"])


@pytest.mark.tier1
def test_black_box_faults_have_names_of_their_own() -> None:
    """Behaviour: at least 25, none twice, each with an area and what it does."""
    assert 25 <= len(BLACKBOX) == len({fault.id for fault in BLACKBOX})
    assert all(fault.area and fault.what for fault in BLACKBOX)


@pytest.mark.tier3
def test_two_faults_are_planted_and_found(tmp_path: Path) -> None:
    """Behaviour: a doubled residual and a skipped layer are live and found; evidence is left, and no baseline."""
    command = [sys.executable, "-m", "andon", "faults", "--only", "block", "--json", "--html", "faults.html"]
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, env=environment())
    assert 0 == done.returncode, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    assert {"block-residual-twice": FOUND, "block-last-layer-skipped": FOUND} == {
        row["fault"]: row["state"] for row in rows
    }
    evidence = json.loads((tmp_path / "reports" / "evidence" / "faults.json").read_text(encoding="utf-8"))
    assert 2 == evidence["metrics"]["found"]["value"]
    assert not (tmp_path / "reports" / "baselines").exists()
    assert "block-residual-twice" in (tmp_path / "faults.html").read_text(encoding="utf-8")


def environment() -> dict[str, str]:
    """This checkout on the path of a process that runs elsewhere."""
    import os

    return os.environ | {"PYTHONPATH": str(ROOT)}
