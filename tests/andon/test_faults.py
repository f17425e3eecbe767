"""`andon dev faults`: what becomes of planted faults is judged, counted and shown as it is."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from andon.gates.evidence import read_evidence
from andon.verify.faults.detect import Found, Result
from andon.verify.faults.generic import GENERIC_FAULTS
from andon.verify.faults.jobs import Outcome
from andon.workshop import faults, matrix
from andon.workshop.matrix import ABSENT, CHECK, ERROR, FOUND, PARITY, TEST, UNFOUND, Row

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
    detect = SimpleNamespace(alarms=None, Task=lambda *fields: fields)
    faults.distrusted(rows, "t:S", lambda work, jobs: [Outcome(0, [SEEN], "", 1.0)], detect, lambda row: None)
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
    with pytest.raises(faults.FaultsError, match="does not name a fault; areas are loss"):
        faults.chosen("x:y", ["no-such"])


@pytest.mark.tier1
def test_black_box_faults_have_names_of_their_own() -> None:
    """Behaviour: at least 25, none twice, each with an area and what it does."""
    assert 25 <= len(GENERIC_FAULTS) == len({fault.id for fault in GENERIC_FAULTS})
    assert all(fault.area and fault.what for fault in GENERIC_FAULTS)


@pytest.mark.tier3
def test_two_faults_are_planted_and_found(tmp_path: Path) -> None:
    """Behaviour: a doubled residual and a skipped layer are live and found; evidence is left, and no baseline."""
    command = [sys.executable, "-m", "andon", "dev", "faults", "--only", "block", "--json", "--html", "faults.html"]
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


@pytest.mark.long
def test_a_users_subject_is_asked_by_the_faults_that_fit_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: the found one is a line, one without its factory is absent and quiet, and the counts end it."""
    monkeypatch.chdir(tmp_path)
    told = ["tests.verify.small:small", "--only", "future-leak", "--only", "resume-one-late", "--workers", "1"]
    done = CliRunner().invoke(faults.command, [*told, "--quiet"])
    assert 0 == done.exit_code, done.output
    assert "100% of the live by checks alone" in done.output
    assert "future-leak" not in done.output
    shown = CliRunner().invoke(faults.command, [*told, "--html", "faults.html"]).output
    assert all(name in shown for name in ("future-leak", "resume-one-late", "attention.causality"))
    assert "future-leak" in Path("faults.html").read_text(encoding="utf-8")
    assert not Path("reports").exists()


@pytest.mark.tier2
def test_the_whole_catalogue_is_kept_beside_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: a whole run writes the baseline, with what is not planted, and the table of docs; a part compares."""
    monkeypatch.chdir(tmp_path)
    rewritten: list[bool] = []
    house = SimpleNamespace(ELSEWHERE={"z": "no home"}, rewrite_pages=lambda: rewritten.append(True))
    monkeypatch.setattr(faults, "_checkout", lambda module: house)
    faults.keep(ROWS, {}, 5.0, whole=True)
    assert {"z": "no home"} == json.loads(faults.BASELINE.read_text(encoding="utf-8"))["elsewhere"]
    assert [True] == rewritten
    faults.keep([replace(ROWS[0], state=UNFOUND)], {}, 1.0, whole=False)
    metrics = read_evidence("faults").metrics
    assert (1, 4, 0.25) == tuple(
        metrics[name].value for name in ("disagreeing_with_committed", "catalogue_live", "catalogue_found_by_checks")
    )


@pytest.mark.tier2
def test_a_long_run_says_how_much_time_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behaviour: every so often one line to stderr, none at the end; quiet, only what was not found is printed."""
    monkeypatch.setattr(faults, "LINE_EVERY_SECONDS", 0.0)
    with faults.screen(2, quiet=True, silent=False, sample=None) as note:
        note(ROWS[0])
        note(ROWS[3])
    said = capsys.readouterr()
    assert "  ... 1 of 2, 0:00 left\n" == said.err
    assert ("d " in said.out, "rooms.count" in said.out) == (True, False)
    with faults.screen(2, quiet=True, silent=True, sample=None) as note:
        note(ROWS[3])
    assert "" == capsys.readouterr().out


@pytest.mark.tier2
def test_a_subject_that_cannot_be_run_ends_the_detection() -> None:
    """Behaviour: the message names the target, the subject and what its process said."""
    detect = SimpleNamespace(fingerprints=None, Task=lambda *fields: fields)
    dead = [Outcome(0, None, "killed: longer than 90 s", 90.0)]
    with pytest.raises(faults.FaultsError, match=r"small cannot be run: killed: longer"):
        list(
            faults.detected(
                "tests.verify.small:small",
                [GENERIC_FAULTS[0]],
                lambda work, jobs: dead,
                detect,
                every=False,
                together=1,
            )
        )


@pytest.mark.tier2
def test_the_catalogue_needs_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: elsewhere the message says so; a module missing within the checkout is no such case."""
    absent = ModuleNotFoundError("no tests", name="tests.faults")

    def refuse(_module: str) -> None:
        raise absent

    monkeypatch.setattr(faults.importlib, "import_module", refuse)
    with pytest.raises(faults.FaultsError, match="checkout"):
        faults.chosen(None, [])
    absent.name = "numpy"
    with pytest.raises(ModuleNotFoundError):
        faults.chosen(None, [])


@pytest.mark.tier2
def test_samples_follow_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: the same order for the same commit, another for another, and nothing is lost."""
    named = [SimpleNamespace(id=str(number)) for number in range(9)]

    def order(commit: str) -> list[str]:
        monkeypatch.setattr(faults.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=commit))
        return [fault.id for fault in faults.shuffled(named)]

    assert order("a") == order("a") != order("b")
    assert sorted(order("a")) == [fault.id for fault in named]
