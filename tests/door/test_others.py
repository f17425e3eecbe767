"""Correct scripts around other people's trainers: what reports come to, and what is shown of them."""

from dataclasses import asdict
from typing import Any

import pytest

from tests.bench import door_tables
from tests.door.others.__main__ import MADE, SCRIPTS, Said, code, first_line, metrics, said_of

RED = {"light": "red", "check": "loss.shapes", "message": "off"}
YELLOW = {"light": "yellow", "check": "run.order", "message": "again"}


def report(*findings: dict[str, str]) -> dict[str, Any]:
    """What the door prints as JSON."""
    captured = ["Net, 1 k parameters", "captured at step 3"]
    return {"findings": list(findings), "captured": captured, "headline": "7 checked, 1 not applicable"}


@pytest.mark.tier1
def test_the_strongest_light_counts() -> None:
    """Behavior: red over yellow over nothing; what was captured and how much was checked are kept."""
    said = said_of("a", "what", [report(YELLOW, RED)], 1.0)
    assert ("red", "captured at step 3", 7) == (said.light, said.captured, said.checked)
    assert ("yellow", "") == (said_of("a", "", [report(YELLOW)], 1.0).light, said_of("a", "", [report()], 1.0).light)


@pytest.mark.tier1
def test_what_is_counted_and_shown() -> None:
    """Behavior: one red script fails a run, and so does one that could not be asked: it is counted apart."""
    rows = [
        said_of("a", "", [report(RED)], 1.0),
        said_of("b", "", [report()], 1.0),
        Said("c", "", "not measured", error="x"),
    ]
    assert (1, 3, 0, 3) == (code(rows), code(rows[1:]), code(rows[1:2]), code([]))
    found = {name: each.value for name, each in metrics(rows).items()}
    assert {"scripts": 3, "red": 1, "yellow": 0, "not_measured": 1, "captured": 2} == found
    shown = door_tables.door_others({"rows": [asdict(row) for row in rows]})
    assert "Of 3 scripts 1 are red, 0 yellow, 1 not measured; of 2 a Subject was captured." in shown
    assert "`loss.shapes`" in shown


@pytest.mark.tier1
def test_there_are_scripts_enough() -> None:
    """Behavior: at least twenty, each of which says in its first line what it is."""
    scripts = [each for each in SCRIPTS.glob("*.py") if each.name != MADE]
    assert len(scripts) >= 20
    assert [] == [each.name for each in scripts if not first_line(each).endswith(".")]
