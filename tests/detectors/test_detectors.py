"""Detectors side by side: what counts as naming, what is a symptom, what clean programs are accused of."""

import re
from pathlib import Path

import pytest

from tests.bench import door_tables
from tests.detectors.asking import Said, groups
from tests.detectors.compare import compared, plain
from tests.detectors.tools import TOOLS, UNASKED, Tool
from tests.door.cases import Case

pytestmark = pytest.mark.tier1
ROOT = Path(__file__).parents[2]
STUB = Tool("stub", "inside", 3)


def case(kind: str, name: str, area: str = "") -> Case:
    """A program without files."""
    return Case("program", kind, name, {}, [], "base", area)


def test_naming_symptoms_and_false_alarms_are_told_apart() -> None:
    """A new alarm with a word of the area names the bug; another is a symptom; a usual one neither. (Behavior)"""
    answers = [
        (case("clean", "clean"), Said(["WARN loss 3.21 is high"], 2.0)),
        (case("variant", "one"), Said(["red loss.mean: off"], 2.0)),
        (case("variant", "two"), Said([], 2.0)),
        (case("fault", "named", "clipping"), Said(["FAIL clipped twice"], 2.0)),
        (case("fault", "symptom", "clipping"), Said(["FAIL loss is NaN"], 2.0)),
        (case("fault", "usual", "loss"), Said(["WARN loss 9.87 is high"], 2.0)),
    ]
    column = compared(STUB, "1.0", answers)
    assert (["named"], ["symptom"]) == (column.named, column.symptoms)
    assert (["clean", "one"], ["one"], 3) == (column.clean_alarms, column.red_clean, column.clean)
    assert (2.0, "") == (column.seconds, column.error)


def test_a_tool_that_never_answers_is_not_measured() -> None:
    """Where every question ends in an error the column says why, and counts nothing. (Behavior)"""
    column = compared(STUB, "1.0", [(case("fault", "a", "loss"), Said(error="exit code 1: no module"))])
    assert ("exit code 1: no module", [], None) == (column.error, column.named, column.seconds)


def test_numbers_make_no_new_alarm() -> None:
    """The same words with other numbers are the same alarm; of Andon the check and its light are. (Behavior)"""
    assert plain("loss 3.21e-05 at step 7") == plain("loss 4.5 at step 12")
    assert plain("red loss.mean: 1 is not 2") == plain("red loss.mean: other words")
    assert plain("red loss.mean: x") != plain("yellow loss.mean: x")


def test_tools_that_end_a_run_are_asked_alone() -> None:
    """Tools inside the program share a run, those of its log share one, and others have their own. (Behavior)"""
    tools = [Tool("a", "inside", 1), Tool("b", "inside", 1, alone=True), Tool("c", "log", 0), Tool("d", "log", 0)]
    tools += [Tool("e", "inside", 1), Tool("f", "source", 0), Tool("g", "source", 0)]
    assert [["a", "e"], ["b"], ["c", "d"], ["f"], ["g"]] == [[tool.name for tool in group] for group in groups(tools)]


def test_every_tool_is_pinned_or_torch_s_own() -> None:
    """Each tool that is asked is pinned; none is also listed as not asked. (Behavior)"""
    pinned = (ROOT / "tests" / "detectors" / "requirements.txt").read_text(encoding="utf-8")
    assert ["anomaly mode"] == [tool.name for tool in TOOLS if f"\n{tool.name}==" not in pinned]
    assert set() == {tool.name for tool in TOOLS} & set(UNASKED)


def test_the_page_shows_every_tool_and_who_named_what() -> None:
    """A line a tool, those not asked with why, and who named each bug. (Behavior)"""
    asked = {"name": "stub", "version": "1.0", "lines": 3, "named": ["a"], "symptoms": ["b"], "clean_alarms": ["clean"]}
    rest = {"name": "other", "version": "", "lines": 0, "error": "wants pictures"}
    empty = {"named": [], "symptoms": [], "clean_alarms": [], "clean": 0, "seconds": None, "error": ""}
    tools = [empty | asked | {"clean": 8, "seconds": 4.0}, empty | rest]
    page = door_tables.detectors({"faults": {"a": "loss", "b": "data"}, "tools": tools, "about": "."})
    page = re.sub(" +", " ", page)
    assert "| stub | 1.0 | 3 | 1 | 1 | 1 of 8 | 4.0 |" in page
    assert "Of 2 bugs all but Andon together name 1." in page
    assert "| b | data | nobody |" in page
    assert "- other : wants pictures" in page
