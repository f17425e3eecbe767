"""The benchmark of unchanged scripts: both layouts are read, bugs are live, columns say what was found."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.bench import door_tables
from tests.door import ask
from tests.door.ask import Alarm, Answer
from tests.door.cases import Case, Edit, LayoutError, cases, replaced
from tests.door.causes import WORDS, names
from tests.door.live import Observed, difference
from tests.door.process import Done
from tests.door.results import counts, rows

ROOT = Path(__file__).parents[2]
SCRIPTS, PROGRAM = ROOT / "tests" / "door" / "scripts", ROOT / "tests" / "detectors" / "script"
DOOR = """
import json, pathlib, sys
print("the program's own output: [1, 2]")
source = pathlib.Path(sys.argv[-1]).read_text()
said = json.loads(source.splitlines()[0][2:])
print(json.dumps([{"headline": f"{len(said)} checked", "findings": said}], indent=2))
print("and what follows it", file=sys.stderr)
"""


def case(kind: str, name: str, source: str = "", area: str = "", known: str = "") -> Case:
    """A script of one line."""
    return Case("script", kind, name, {"train.py": source}, [["train.py"]], "", area, known)


def finding(check: str, light: str, look: str = "", **more: object) -> dict[str, object]:
    """What a report holds of a check that did not pass."""
    return {"check": check, "light": light, "title": "", "message": "", "detail": "", "look": look, **more}


def answer(*alarms: tuple[str, str], seconds: float = 1.0, error: str = "") -> Answer:
    """An answer with these checks and lights."""
    return Answer(tuple(Alarm(check, light, check) for check, light in alarms), seconds, 1.0, error=error)


@pytest.mark.tier1
@pytest.mark.parametrize("folder", [SCRIPTS, PROGRAM], ids=["scripts", "program"])
def test_every_replacement_fits(folder: Path) -> None:
    """Each committed bug and variant replaces text that is there once, and its area has words. (Behavior)"""
    found = cases(folder)
    assert {"clean", "variant", "fault"} == {each.kind for each in found}
    assert [] == [each.label for each in found if each.kind == "fault" and each.area not in WORDS]
    assert [] == [
        each.label for each in found if each.kind == "fault" and each.knowable_by not in ("any", "habit", "author")
    ]
    clean = {each.program: dict(each.files) for each in found if each.kind == "clean"}
    assert [] == [each.label for each in found if each.kind != "clean" and dict(each.files) == clean[each.program]]


@pytest.mark.tier1
def test_there_is_enough_to_find() -> None:
    """Six scripts with two variants and five bugs each; a program with 24 bugs or more and six variants. (Behavior)"""
    scripts, program = ([(each.program, each.kind) for each in cases(folder)] for folder in (SCRIPTS, PROGRAM))
    for name in {name for name, _ in scripts}:
        assert [1, 2, 5] == [scripts.count((name, kind)) for kind in ("clean", "variant", "fault")]
    assert 6 == len({name for name, _ in scripts})
    assert program.count(("bytegpt", "fault")) >= 24
    assert 6 == program.count(("bytegpt", "variant"))


@pytest.mark.tier1
def test_a_text_that_is_there_twice_is_refused() -> None:
    """A replacement that would not say where it goes is refused, with the file and the count. (Behavior)"""
    with pytest.raises(LayoutError, match=r"here: the text to replace occurs 2 times in a\.py, not once"):
        replaced({"a.py": "x = 1\nx = 1\n"}, [Edit("a.py", "x = 1", "x = 2")], "here")


@pytest.mark.tier1
def test_a_folder_of_neither_layout_is_refused(tmp_path: Path) -> None:
    """A folder without scripts and without a program is refused, by name. (Behavior)"""
    with pytest.raises(LayoutError, match=r"no faults\.py beside a package"):
        cases(tmp_path)


@pytest.mark.tier1
def test_a_program_without_runs_of_its_own_is_run_by_the_usual_arguments(tmp_path: Path) -> None:
    """Where a table has no RUNS, a resumed program saves in a first run and resumes in a second. (Behavior)"""
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "train.py").write_text("rate = 1\n")
    table = {"a": {"area": "schedule", "mode": "resume", "file": "train.py", "old": "rate = 1", "new": "rate = 2"}}
    (tmp_path / "faults.py").write_text(f"F = {table!r}\n")
    found = {each.id: each for each in cases(tmp_path)}
    assert ["clean", "clean-resume", "a"] == list(found)
    assert [["-m", "llm.train"]] == found["clean"].runs
    assert ["--save", "--resume"] == [run[2] for run in found["a"].runs]
    assert {"llm/train.py": "rate = 2\n"} == found["a"].files


@pytest.mark.tier2
def test_the_door_is_asked_and_read(tmp_path: Path) -> None:
    """The reports are found among all that is printed, with the place that a finding names. (Behavior)"""
    door = tmp_path / "door.py"
    door.write_text(DOOR)
    said = [finding("a.b", "red", "at train.py:17"), finding("c.d", "yellow"), finding("e.f", "red", mistake=True)]
    found = ask.ask(case("fault", "one", f"# {json.dumps(said)}\n"), [sys.executable, str(door)])
    assert [("a.b", "red", "train.py:17"), ("c.d", "yellow", ""), ("e.f", "mistake", "")] == [
        (each.check, each.light, each.place) for each in found.alarms
    ]
    assert (3, "") == (found.checked, found.error)


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (Done(2, "", "Traceback\nValueError: no loss\n", 1.0, 1.0), "exit code 2: ValueError: no loss"),
        (Done(124, "", "", 30.0, 1.0), "no answer in 30 s"),
        (Done(0, "[1, 2]\n", "", 1.0, 1.0), "exit code 0: nothing was said"),
    ],
)
def test_no_report_has_a_reason(done: Done, reason: str) -> None:
    """A door that gives no report is not measured, with why: it failed, took too long, or said nothing. (Behavior)"""
    assert [] == ask.answered(done)
    assert reason == ask.why(done)


@pytest.mark.tier1
def test_each_light_and_miss_is_counted() -> None:
    """Red, yellow, missed and not measured are told apart; what clean code has names no bug. (Behavior)"""
    asked = [
        (case("clean", "clean"), answer(("schedule.start", "yellow"))),
        (case("variant", "one"), answer(("loss.mean", "red"))),
        (case("variant", "two"), answer()),
        (case("fault", "found", "", "clipping", "any"), answer(("schedule.start", "yellow"), ("clipping.all", "red"))),
        (case("fault", "second", "", "clipping", "habit"), answer(("data.rows", "red"), ("clipping.all", "yellow"))),
        (case("fault", "usual", "", "schedule", "any"), answer(("schedule.start", "yellow"))),
        (case("fault", "beside", "", "clipping", "author"), answer(("data.rows", "red"))),
        (case("fault", "failed", "", "clipping", "any"), answer(error="exit code 2")),
    ]
    found = rows(asked)
    assert ["yellow", "red", "", "red", "yellow", "missed", "missed", "not measured"] == [row.light for row in found]
    assert [True, False] == [row.first for row in found[3:5]]
    assert [("data.rows",), ("data.rows",)] == [found[4].others, found[6].others]
    said = counts(found)
    assert (5, 1, 1, 1, 1) == tuple(said[key] for key in ("faults", "red", "yellow", "unmeasured", "first"))
    assert (3, 1, 2) == tuple(said[key] for key in ("correct", "correct_red", "correct_lit"))
    assert (3, 1, 1) == tuple(said[key] for key in ("any", "any_red", "any_lit"))


@pytest.mark.tier1
def test_an_alarm_names_a_cause_by_a_word_of_its_area() -> None:
    """An alarm about clipping names a bug of clipping, and no bug of the schedule. (Behavior)"""
    assert names("clipping", "Gradients are CLIPPED once a step")
    assert not names("schedule", "Gradients are clipped once a step")


@pytest.mark.tier1
def test_what_differs_is_said_and_what_does_not_is_not() -> None:
    """The first difference of two runs is named with both values; rounding is none. (Behavior)"""
    one = Observed(0, [[1.0, 2.0, [0.1], [True], 2], [1.5, 2.5, [0.2], [True], 2]], [3.0], ["a", "b"], 1.0, "")
    assert "" == difference(one, one)
    assert "" == difference(one, one._replace(saved=[3.0 + 1e-12]))
    moved = [one.trace[0], [1.5, 2.5, [0.3], [True], 2]]
    assert "rates at optimizer step 2: 0.2, and 0.3" == difference(one, one._replace(trace=moved))
    assert "optimizer steps: 2, and 1" == difference(one, one._replace(trace=one.trace[:1]))
    assert "sum of the tensors in saved file 1: 3, and 4" == difference(one, one._replace(saved=[4.0]))
    assert "a printed line: 'b', and 'c'" == difference(one, one._replace(lines=["a", "c"]))


@pytest.mark.tier1
def test_the_page_shows_each_bug_and_each_correct_script() -> None:
    """The table has a line a bug, with its light and place, a line a correct script, and the sums. (Behavior)"""
    asked = [
        (case("clean", "clean"), answer()),
        (
            case("fault", "found", "", "clipping", "any"),
            Answer((Alarm("clipping.all", "red", "clip", "train.py:7"),), 2, 1),
        ),
    ]
    found = rows(asked)
    page = door_tables.door({"counts": counts(found), "rows": [vars(row) for row in found]})
    page = re.sub(" +", " ", page)
    assert "| `script` | found | clipping | wrong in any code | red | `clipping.all` | train.py:7 | yes | 2 |" in page
    assert "| `script` | clean | nothing | | 1 |" in page
    assert "The naming finding comes first in 1 of 1. Not measured: 0. Seconds, median: 1.5." in page


@pytest.mark.long
def test_the_probe_sees_a_step_a_save_and_a_mode() -> None:
    """The probe notes norms, rates, the mode, and what is saved, and leaves the program's own output. (Behavior)"""
    from tests.door.live import observe

    source = (
        "import torch\nmodel = torch.nn.Linear(2, 1)\ntorch.nn.init.ones_(model.weight)\n"
        "torch.nn.init.zeros_(model.bias)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.5)\n"
        "model(torch.ones(1, 2)).sum().backward()\noptimizer.step()\n"
        "torch.save(model.state_dict(), 'a.pt')\nprint('end')\n"
    )
    seen = observe(case("clean", "clean", source))
    assert (0, ["end"], [0.5]) == (seen.code, seen.lines, seen.saved)
    norm, grad, rates, modes, _ = seen.trace[0]
    assert (pytest.approx(0.5**0.5 + 0.5), pytest.approx(2**0.5 + 1), [0.5], [True]) == (norm, grad, rates, modes)
    assert 1 == len(seen.trace)
