"""The debt grade: each dimension costs at its line, worse code never scores higher, and a file cannot quietly fall."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from andon.gates.evidence import read_evidence
from andon.gates.measures.debt.__main__ import main
from andon.gates.measures.debt.cognitive import cognitive_complexity
from andon.gates.measures.debt.hotspots import hotspots
from andon.gates.measures.debt.listing import render_json, render_sarif, render_text
from andon.gates.measures.debt.loss import File, Loss, grade, project_score
from andon.gates.measures.debt.ratchet import fallen, read_baseline, write_baseline
from andon.gates.measures.debt.score import DebtError, grade_files
from tests.commands import commit

DOC = '"""A module."""\n'


def graded(source: str) -> File:
    """One file's grade."""
    return grade_files({"a.py": source})[0]


def body(count: int, indent: str = "    ") -> str:
    """Statements that are all different."""
    return "".join(f"{indent}v{number} = {number}\n" for number in range(count))


def branches(count: int, condition: str = "x == {}") -> str:
    """A documented function with so many `if`s side by side."""
    ifs = "".join(f"    if {condition.format(number)}:\n        r{number} = 1\n" for number in range(count))
    return f'{DOC}def f(x):\n    """Say."""\n{ifs}'


def nest(depth: int) -> str:
    """A documented function with `with` blocks so deep."""
    withs = "".join(f"{'    ' * (level + 1)}with x{level}:\n" for level in range(depth))
    return f'{DOC}def f():\n    """Say."""\n{withs}{"    " * (depth + 1)}pass\n'


FREE_AND_NOT = [  # dimension, the most that is free, one more, the points of that
    ("cyclomatic", branches(9), branches(10), 1.0),
    ("cognitive", branches(7, "x == {} and y"), branches(8, "x == {} and y"), 0.5),
    ("length", f'{DOC}def f():\n    """Say."""\n{body(49)}', f'{DOC}def f():\n    """Say."""\n{body(50)}', 0.1),
    ("length", DOC + body(500, ""), DOC + body(501, ""), 0.02),
    ("nesting", nest(4), nest(5), 2.0),
    (
        "coupling",
        DOC + "".join(f"import m{number}\n" for number in range(15)) + "import os\n",
        DOC + "".join(f"import m{number}\n" for number in range(16)),
        1.0,
    ),
    ("documentation", f'{DOC}def f():\n    """Say."""\n', f"{DOC}def f():\n    pass\n", 1.0),
    ("documentation", f"{DOC}a = 1\n", "a = 1\n", 2.0),
    ("documentation", f"{DOC}def _f():\n    pass\n", f"{DOC}class A:\n    '''Say.'''\n    def f(self): pass\n", 1.0),
    ("suppressions", f"{DOC}a = '# noqa'\n", f"{DOC}a = 1  # noqa: E501\n", 1.0),
    ("suppressions", f"{DOC}a = 1\n", f"{DOC}a = 1  # type: ignore[attr]  # the stubs lack it\n", 0.5),
    ("suppressions", f"{DOC}a = 1\n", f"{DOC}# ruff: noqa\na = 1\n", 3.0),
]


@pytest.mark.tier3
@pytest.mark.parametrize(("dimension", "free", "costs", "points"), FREE_AND_NOT)
def test_a_limit_is_free_and_one_more_costs(dimension: str, free: str, costs: str, points: float) -> None:
    """Behavior: at the limit nothing is lost in that dimension, beyond it the documented points."""
    assert [] == [loss for loss in graded(free).losses if loss.dimension == dimension]
    found = [loss.points for loss in graded(costs).losses if loss.dimension == dimension]
    assert 1 == len(found)
    assert points == found[0]


@pytest.mark.tier3
def test_a_run_of_ten_lines_that_stands_twice_costs_both_files() -> None:
    """Behavior: each copy loses 0.2 per line and names the other; nine lines, and imports, are not a run."""
    files = grade_files({"a.py": DOC + body(12, ""), "b.py": f"{DOC}first = 0\n" + body(12, "")})
    found = [(loss.path, loss.line, loss.points) for file in files for loss in file.losses]
    assert [("a.py", 2, 2.4), ("b.py", 3, 2.4)] == found
    assert "b.py:3" in files[0].losses[0].why
    assert all(not file.losses for file in grade_files({"a.py": DOC + body(9, ""), "b.py": DOC + body(9, "")}))
    imports = DOC + "".join(f"import os.m{number}\n" for number in range(12))
    assert all(not file.losses for file in grade_files({"a.py": imports, "b.py": imports}))


MATCH = """def f(n):
    match n:
        case 1: return "one"
        case 2: return "two"
        case _: return "lots"
"""
PRIMES = """def primes(most):
    total = 0
    for i in range(1, most):
        for j in range(2, i):
            if i % j == 0:
                break
        else:
            total += i
    return total
"""
NESTED = """def f():
    try:
        if a:
            for i in x:
                while b:
                    pass
    except E:
        if b:
            pass
"""
DECORATOR = """def outer(a):
    def inner():
        if a:
            pass
    return inner
"""
CHAIN = """def f(n):
    if n:
        return f(n - 1)
    elif m:
        return 1
    else:
        return 2
"""
CAMPBELL = [  # Reference: examples of the white paper, in Python
    ("def f(n):\n    return {1: 'one', 2: 'a couple'}.get(n, 'lots')\n", 0),
    (MATCH, 1),
    ("def f(a, b, c, d):\n    if a and b and c or d:\n        pass\n", 3),
    ("def f(a, b):\n    if a and not (b and a):\n        pass\n", 3),
    (PRIMES, 7),  # 1 + 2 + 3, and 1 for a loop's else where the paper has a labeled continue
    (NESTED, 9),
    ("def f():\n    r = lambda: 1 if a else 2\n", 2),
    (DECORATOR, 1),
    (CHAIN, 4),
    ("def f(self, n):\n    return self.f(n) + other.f(n)\n", 1),  # a method that calls itself
]


@pytest.mark.tier3
@pytest.mark.parametrize(("source", "number"), CAMPBELL)
def test_cognitive_complexity_as_published(source: str, number: int) -> None:
    """Reference: G. A. Campbell's increments, by node and by nesting."""
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert number == cognitive_complexity(function)


@st.composite
def programs(draw: st.DrawFn) -> list[str]:
    """Lines of a module with a documented function of random blocks, no two of them equal."""
    lines = ['"""A module."""', "import one", "def function(a, b):", '    """Say."""']
    level = 1
    for number in range(draw(st.integers(1, 25))):
        head = draw(st.sampled_from(["", "if a == {}:", "for i{} in b:", "while a < {}:", "with b as c{}:"]))
        lines.append("    " * level + (head.format(number) or f"v{number} = a"))
        level = level + 1 if head else max(1, level - draw(st.integers(0, 2)))
        if head:
            lines.append("    " * level + f"w{number} = b")
    return lines


def deeper(lines: list[str]) -> list[str]:
    """The function's body one level deeper."""
    return [*lines[:4], "    if b:", *("    " + line for line in lines[4:])]


WORSE = {
    "a branch": lambda lines: [*lines, "    if a and b or a:", "        z1 = 2"],
    "a level": deeper,
    "longer": lambda lines: [*lines, *(f"    z{number} = b" for number in range(60))],
    "coupled": lambda lines: [lines[0], *(f"import more{number}" for number in range(16)), *lines[1:]],
    "silenced": lambda lines: [*lines, "    z2 = 1  # noqa"],
    "undocumented": lambda lines: [*lines[:3], *lines[4:]],
    "a copy": lambda lines: [*lines, *(line.replace("function", "copied") for line in lines[2:])],
    "a recursion": lambda lines: [*lines, "    return function(a, b)"],
}


@pytest.mark.tier3
@pytest.mark.parametrize("change", WORSE)
@given(lines=programs())
def test_worse_code_never_scores_higher(change: str, lines: list[str]) -> None:
    """Behavior: whatever the program, making it worse does not raise its score."""
    before, after = (graded("\n".join(each) + "\n") for each in (lines, WORSE[change](lines)))
    assert after.score <= before.score


@pytest.mark.tier3
@given(
    scores=st.lists(st.lists(st.floats(0, 60), max_size=4), min_size=1, max_size=5),
    more=st.floats(0, 60),
    place=st.integers(0, 4),
)
def test_more_loss_anywhere_never_raises_the_project(scores: list[list[float]], more: float, place: int) -> None:
    """Behavior: a loss added to any file lowers that file's and the project's score or leaves it, down to 0."""
    losses = [[Loss("a", 1, "length", points, "") for points in each] for each in scores]
    before = project_score([File("a", tuple(each), 1) for each in losses])
    losses[place % len(losses)].append(Loss("a", 1, "length", more, ""))
    after = project_score([File("a", tuple(each), 1) for each in losses])
    assert before is not None
    assert after is not None
    assert 0 <= after <= before + 1e-9


@pytest.mark.tier3
def test_letters_at_their_edges_and_nothing_graded() -> None:
    """Behavior: a letter begins at its number; no file has no score, and a file without a statement is none."""
    letters = [grade(score) for score in (100, 95, 94.99, 90, 89.99, 80, 70, 60, 59.99, 0)]
    assert ["A+", "A+", "A", "A", "B", "B", "C", "D", "F", "F"] == letters
    assert project_score([]) is None
    assert [] == grade_files({"a.py": DOC, "b.py": ""})


@pytest.mark.tier3
def test_all_forms_show_the_same_points() -> None:
    """Behavior: table, JSON and SARIF list the same losses, each with its line."""
    files = grade_files({"a.py": branches(20), "b.py": "def g(): pass  # noqa\n", "clean.py": DOC})
    losses = {(loss.path, loss.line, loss.dimension, loss.points) for file in files for loss in file.losses}
    assert 5 == len(losses)
    assert losses == {
        (each["path"], each["line"], each["dimension"], each["points"])
        for file in json.loads(render_json(files, []))["files"]
        for each in file["losses"]
    }
    results = json.loads(render_sarif(files, []))["runs"][0]["results"]
    places = [result["locations"][0]["physicalLocation"] for result in results]
    assert losses == {
        (
            place["artifactLocation"]["uri"],
            place["region"]["startLine"],
            result["ruleId"].removeprefix("debt."),
            result["properties"]["points"],
        )
        for place, result in zip(places, results, strict=True)
    }
    clean = grade_files({"clean.py": DOC + "a = 1\n"})
    assert 100 == clean[0].score
    text = render_text([*files, *clean], "not measured: a reason")
    assert "clean.py" not in text
    assert all(f"{path}:{line}: -{points:g} {dimension}: " in text for path, line, dimension, points in losses)
    assert "not measured: a reason" in text
    assert "clean.py" not in text


@pytest.mark.tier3
def test_the_ratchet_turns_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a fall beyond a point and a poor new file are red, with evidence; unchanged content never is."""
    monkeypatch.chdir(tmp_path)
    legacy, code = Path("code/legacy.py"), Path("code")
    code.mkdir()
    legacy.write_text(branches(25))
    write_baseline([File(str(legacy), (), 1)], Path("reports/baselines/debt.json"))
    assert 0 == main(["code"])  # far below the record, and its content is the recorded one
    legacy.write_text(branches(26))
    assert [1, 1] == [main(["code"]), main(["code", "--format", "json"])]
    assert 1 == read_evidence("debt").metrics["fallen"].value
    assert 0 == main(["code", "--write"])
    assert 0 == main(["code"])
    (code / "new.py").write_text(branches(21))
    assert 1 == main(["code"])
    (code / "new.py").write_text(branches(9))
    assert 0 == main(["code"])
    recorded = {"x": (97.0, ""), "y": (97.0, "")}
    at_edge, beyond = (File(name, (Loss(name, 1, "length", lost, ""),), 1) for name, lost in (("x", 4.0), ("y", 4.1)))
    assert ["y:1"] == [line[:3] for line in fallen([at_edge, beyond], recorded)]


@pytest.mark.tier3
@pytest.mark.parametrize(("name", "text"), [("absent.py", None), ("a.py", "def :\n"), ("a.py", "x = '\0'\n")])
def test_what_cannot_be_graded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str | None
) -> None:
    """Behavior: a missing file and one that is no Python exit 2 with the path, and leave no evidence."""
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    assert 2 == main([name])
    assert f"debt: {name}: " in capsys.readouterr().out
    assert not Path("reports/evidence/debt.json").exists()


@pytest.mark.tier3
def test_hotspots_without_history_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: outside of a repository there is no churn, and it says so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "not measured: no git repository with a commit" == hotspots([])


@pytest.mark.tier3
def test_hotspots_are_commits_times_complexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: worst first; a file without branches or commits is none; a shallow clone measures nothing."""
    monkeypatch.chdir(tmp_path)
    for text in ("1", "2", "3"):
        commit(tmp_path, often=text, seldom="1")
    files = [File("often.py", (), 4), File("seldom.py", (), 7), File("new.py", (), 9), File("flat.py", (), 0)]
    assert [(12, "often.py"), (7, "seldom.py")] == hotspots(files)
    monkeypatch.setattr("andon.gates.measures.debt.hotspots.is_shallow", lambda: True)
    assert "a shallow clone" in str(hotspots(files))


@pytest.mark.tier3
def test_a_record_that_holds_no_scores_is_refused(tmp_path: Path) -> None:
    """Behavior: the message names the file and the command that writes it."""
    path = tmp_path / "debt.json"
    path.write_text('{"a.py": 3}')
    with pytest.raises(DebtError, match=r"debt\.json: holds no scores .*nox -s measure -- debt --write"):
        read_baseline(path)


@pytest.mark.tier3
def test_each_imported_module_counts_once() -> None:
    """Behavior: absolute, dotted and relative ones; Python's own, and a second import of one, are free."""
    lines = ["import os, json", "from . import a, b", "from ..c import d", "import e.f", "import e.f"]
    lines += [f"import m{number}" for number in range(13)]
    (file,) = grade_files({"a.py": DOC + "\n".join(lines) + "\n"})
    assert [(18, "m11"), (19, "m12")] == [
        (loss.line, loss.why.partition(" ")[0]) for loss in file.losses if loss.dimension == "coupling"
    ]
