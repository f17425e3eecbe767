"""The self-test: a gate that cannot go red is found, a changed definition is stale, a broken copy proves nothing."""

import math
import shlex
import sys
from pathlib import Path

import pytest

from andon.gates.config import GateError, Gates, load_gates
from andon.gates.selftest import selftest
from andon.gates.selftest.injection import copy_tree
from andon.gates.selftest.selftest import Seen
from andon.source import find, replaced
from tests.commands import commit, git

CHECK = "import pathlib, sys; text = pathlib.Path('code.txt').read_text(); print(text); sys.exit('bad' in text)"
LEAVE = (
    "import json, os; os.makedirs('reports/evidence', exist_ok=True); bad = open('code.txt').read().count('bad');"
    "metrics = {'bad': {'value': bad, 'unit': ''}, 'null': {'value': None, 'unit': ''}};"
    "evidence = {'name': 'm', 'command': 'c', 'seconds': 1, 'sources': {}, 'metrics': metrics};"
    "json.dump(evidence, open('reports/evidence/m.json', 'w'))"
)


def project(folder: Path, code: str, fault: str) -> Gates:
    """A project with a text file, one measure that runs a line of Python, two thresholds, and a fault."""
    (folder / "code.txt").write_text("good\n")
    (folder / "faults.toml").write_text(f'[[faults]]\nmeasure = "m"\n{fault}')
    command = shlex.join([sys.executable, "-c", code])
    bound = {"operator": "<=", "value": 0.0, "tier": "t", "why": "w"}
    return Gates.model_validate(
        {
            "tiers": [{"name": "t", "summary": "s", "budget_seconds": 5.0}],
            "faults": "faults.toml",
            "measures": [{"name": "m", "tier": "t", "command": command, "next": "n"}],
            "thresholds": [{"metric": "m.bad", **bound}, {"metric": "m.null", **bound}],
        }
    )


def seen(gates: Gates) -> Seen:
    """What comes of the measure."""
    return selftest.run(selftest.gates_to_test(gates)[:1], lambda each: None)[0]


CODE = "import door; print('bad'); raise SystemExit(door.count(3) > 3)"
WHERE = 'where = "{}"\nbefore = "steps  +  0"\nafter = "steps + 1"\nshows = "bad"\n'


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("where", "said"), [("app:count", ""), ("app:door.count", ""), ("app:gone", "no module of app define gone")]
)
def test_a_fault_finds_its_definition_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, said: str
) -> None:
    """Behavior: a definition of a package is changed by syntax, in whichever folder its module lies."""
    (tmp_path / "app/parts").mkdir(parents=True)
    (tmp_path / "app/parts/door.py").write_text("def count(steps):\n    return steps + 0\n")
    monkeypatch.chdir(tmp_path)
    found = seen(project(tmp_path, f"import sys; sys.path.append('app/parts'); {CODE}", WHERE.format(where)))
    assert (not said) == found.red, found.problem
    assert said in found.problem


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "a fault has one of the two"),
        ('file = "a.py"\nwhere = "app:a"\nbefore = "1"\n', "a fault has one of the two"),
        ('where = "app:a"\n', "needs `before`"),
    ],
)
def test_a_fault_has_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str) -> None:
    """Behavior: no place, two places, and a definition without what is to change are refused."""
    monkeypatch.chdir(tmp_path)
    gates = project(tmp_path, CHECK, place + 'after = "2"\nshows = "bad"\n')
    with pytest.raises(GateError, match=said):
        selftest.read_faults(gates)


@pytest.mark.tier3
def test_every_fault_of_this_project_applies() -> None:
    """Behavior: what each fault changes occurs once where the fault says."""
    root = Path(__file__).parents[2]
    for fault in selftest.read_faults(load_gates()):
        if fault.where:
            _, path, name = find(fault.where, root)
            assert replaced(path.read_text(encoding="utf-8"), name, fault.before, fault.after)
        elif fault.before:
            assert 1 == (root / fault.file).read_text(encoding="utf-8").count(fault.before), fault
        else:
            assert not (root / fault.file).exists()


GOOD = 'file = "code.txt"\nbefore = "good"\nafter = "bad"\nshows = "{}"\n'


@pytest.mark.tier3
def test_a_copy_is_the_project_as_it_stands_with_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: changed and new files as they are, ignored and deleted ones not, and git knows the commits."""
    root, copy = tmp_path / "root", tmp_path / "copy"
    root.mkdir()
    (root / ".gitignore").write_text("left/\n")
    commit(root, kept="1", gone="1")
    monkeypatch.chdir(root)
    (root / "gone.py").unlink()
    (root / "kept.py").write_text("2")
    (root / "link").symlink_to("left")
    for new in ("left/out.py", "parts/new.py"):
        (root / new).parent.mkdir()
        (root / new).write_text("3")
    copy_tree(copy)
    found = {str(path.relative_to(copy)) for path in copy.rglob("*.py")}
    assert ({"kept.py", "parts/new.py"}, "2") == (found, (copy / "kept.py").read_text())
    told = git("status", "--porcelain", "-uall", cwd=copy)
    assert [" D gone.py", " M kept.py", "?? link", "?? parts/new.py"] == told.splitlines()
    assert Path("left") == (copy / "link").readlink()


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("code", "fault", "said"),
    [
        (CHECK, GOOD.format("bad"), ""),  # by its exit code
        (LEAVE, GOOD.format("m.bad"), ""),  # by its threshold
        ("print('bad')", GOOD.format("bad"), "stayed green"),
        (LEAVE.replace("count('bad')", "count('-')"), GOOD.format("m.null"), "stayed green"),  # null is not a finding
        (
            "import sys; sys.exit('no such tool')",
            GOOD.format("bad"),
            "'bad' is not in the output, which ends with: no such tool",
        ),
        (CHECK, GOOD.format("bad").replace('"good"', '"better"'), "occurs 0 times in code.txt"),
        (CHECK, 'file = "code.txt"\nafter = "bad"\nshows = "bad"\n', "code.txt already exists"),
        (CHECK.replace("code", "new/code"), 'file = "new/code.txt"\nafter = "bad"\nshows = "bad"\n', ""),  # a new file
    ],
)
def test_a_measure_is_seen_red_on_its_own_fault_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, fault: str, said: str
) -> None:
    """Behavior: red by exit code or threshold counts where the fault shows; whatever else happens is said."""
    monkeypatch.chdir(tmp_path)
    found = seen(project(tmp_path, code, fault))
    assert (not said) == found.red, found.problem
    assert said in found.problem
    assert "good\n" == (tmp_path / "code.txt").read_text()


@pytest.mark.tier3
def test_a_measure_without_a_fault_fails_and_a_fault_without_a_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: a new measure cannot come without its fault."""
    monkeypatch.chdir(tmp_path)
    gates = project(tmp_path, CHECK, GOOD.format("bad"))
    assert "no fault is defined for it" == seen(gates.model_copy(update={"faults": ""})).problem
    (tmp_path / "faults.toml").write_text('[[faults]]\nmeasure = "z"\n' + GOOD.format("bad"))
    with pytest.raises(GateError, match="measure='z' is not a measure; known are m"):
        selftest.gates_to_test(gates)


@pytest.mark.tier3
def test_thresholds_are_tried_at_the_next_floats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Behavior: the value and the floats beside it, each with its state; judging that is off by one is found."""
    below, above = math.nextafter(90, -math.inf), math.nextafter(90, math.inf)
    assert [(below, "red"), (90, "pass"), (above, "pass")] == list(selftest.edges(">=", 90))
    assert [(below, "red"), (90, "red"), (above, "pass")] == list(selftest.edges(">", 90))
    assert [(below, "red"), (90, "pass"), (above, "red")] == list(selftest.edges("==", 90))
    monkeypatch.chdir(tmp_path)
    known = selftest.gates_to_test(project(tmp_path, CHECK, GOOD.format("bad")))[1:]
    assert ["threshold", "threshold", "budget"] == [gate.kind for gate in known]
    assert all(each.red for each in selftest.run(known, lambda each: None))
    monkeypatch.setitem(selftest.judge.__globals__["OPERATORS"], "<=", lambda value, bound: value < bound)
    assert [False] * 3 == [each.red for each in selftest.run(known, lambda each: None)]


@pytest.mark.tier3
def test_a_threshold_on_an_exit_code_is_tried_where_the_judge_reads_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Behaviour: the runner's own record of a measure is what such a threshold is judged on."""
    monkeypatch.chdir(tmp_path)
    gates = project(tmp_path, CHECK, GOOD.format("bad"))
    exits = gates.thresholds[0].model_copy(update={"metric": "m.exit_code", "operator": "=="})
    known = selftest.gates_to_test(gates.model_copy(update={"thresholds": [exits]}))[1:2]
    assert [("m.exit_code", True, "")] == [
        (each.name, each.red, each.problem) for each in selftest.run(known, lambda each: None)
    ]


@pytest.mark.tier3
def test_a_changed_definition_is_unseen_until_it_is_tested_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Behavior: the table holds for the definitions it was made with, and only what changed is unseen."""
    monkeypatch.chdir(tmp_path)
    gates = project(tmp_path, CHECK, GOOD.format("bad"))
    known = selftest.gates_to_test(gates)
    selftest.write_seen(selftest.run(known, lambda each: None), tmp_path / "table.json")
    table = selftest.read_seen(tmp_path / "table.json")
    assert [] == selftest.unseen(known, table)
    thresholds = [gates.thresholds[0].model_copy(update={"value": 1.0}), gates.thresholds[1]]
    changed = selftest.gates_to_test(gates.model_copy(update={"thresholds": thresholds}))
    assert ["m", "m.bad"] == [gate.name for gate in selftest.unseen(changed, table)]
    (tmp_path / "faults.toml").write_text('[[faults]]\nmeasure = "m"\n' + GOOD.format("ba"))
    assert ["m"] == [gate.name for gate in selftest.unseen(selftest.gates_to_test(gates), table)]
    assert [row.name for row in table] == [row.name for row in selftest.merged(known, table[:2], table)]
    (tmp_path / "table.json").write_text("[{}]")
    with pytest.raises(GateError, match="andon gate selftest` writes it"):
        selftest.read_seen(tmp_path / "table.json")


@pytest.mark.tier3
def test_every_measure_of_this_project_has_a_fault() -> None:
    """Behavior: a measure that is added to configs/gates.toml brings the fault that turns it red."""
    gates = load_gates()
    assert {measure.name for measure in gates.measures} == {fault.measure for fault in selftest.read_faults(gates)}
