"""Mutants are the mistakes that their operators name; old answers, excuses and counts hold as long as they are true."""

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from andon.gates.config import GateError
from andon.gates.measures.mutation import keys, plan, results
from andon.gates.measures.mutation.keys import Covering
from andon.gates.measures.mutation.plan import Excuse, Plan
from andon.gates.measures.mutation.results import File, Function, Row
from andon.gates.measures.risk import Mutation

if TYPE_CHECKING:
    from andon.gates.measures.mutation.generate import Mutant

pytestmark = pytest.mark.tier3

SETTINGS = Mutation(per_function=4, marks="tier1", test_seconds=1.0, function_seconds=2.0, limit_seconds=9.0)
PLAN = Plan(SETTINGS, (plan.Module("a.py", "a.py", 4, ("test_a.py",)),))
RISKS = """[mutation]
per_function = 4
marks = "m"
test_seconds = 1.0
function_seconds = 1.0
limit_seconds = 1.0
[[levels]]
name = "ordinary"
lines = 0
branches = 0
why = "w"
[[modules]]
level = "ordinary"
why = "w"
mutation = 90
"""
MISTAKES = [  # operator, an expression, what it makes of it
    ("transpose_dropped", "x @ w.t()", "x @ w"),
    ("transpose_dropped", "x @ (w + w).mT", "x @ (w + w)"),
    ("dimension_changed", "x.sum(-1)", "x.sum(-2)"),
    ("dimension_changed", "x.mean(dim=0)", "x.mean(dim=1)"),
    ("keepdim_flipped", "x.sum(-1, keepdim=True)", "x.sum(-1)"),
    ("keepdim_flipped", "x.sum(-1)", "x.sum(-1, keepdim=True)"),
    ("in_place", "x.mul(w)", "x.mul_(w)"),
    ("detach", "x.detach() + w", "x + w"),
    ("dtype_cast", "x.to(torch.float32)", "x.to(torch.float64)"),
    ("dtype_cast", "x.to(torch.float32)", "x.to(torch.bfloat16)"),
    ("dtype_cast", "x.to(w.dtype)", "x"),
    ("dtype_cast", "x.double()", "x.float()"),
    ("dtype_cast", "at_least_fp32(x)", "x"),
    ("axis_moved", "x.unsqueeze(-1)", "x.unsqueeze(-2)"),
    ("axis_moved", "x[:, None]", "x[None, :]"),
    ("axis_moved", "x[None]", "x[..., None]"),
    ("scale_changed", "x * (w + eps)", "x * (w)"),
    ("scale_changed", "x + 1e-5", "x + 0.0001"),
    ("scale_changed", "w(x, eps=eps)", "w(x, eps=1)"),
    ("scale_changed", "x * w.scale", "x"),
    ("operator_swap_op", "x + w", "x - w"),  # mutmut's own
]


def made(text: str, count: int = 1000) -> "list[Mutant]":
    """All mutants of a module's text; what makes them is imported late, as tier 2 collects this file, too."""
    from andon.gates.measures.mutation import generate

    return [each for some in generate.mutants("a.py", text, count, generate.functions(text)).values() for each in some]


def function_of(expression: str) -> str:
    """A function of two tensors that returns an expression."""
    return f"def f(x: Tensor, w: Tensor, eps: float) -> Tensor:\n    return {expression}\n"


@pytest.mark.parametrize(("operator", "before", "after"), MISTAKES)
def test_each_operator_makes_its_mistake(operator: str, before: str, after: str) -> None:
    """Behavior: the mistake is among the mutants, under its operator's name."""
    wanted = ast.dump(ast.parse(function_of(after)))
    found = [mutant for mutant in made(function_of(before)) if ast.dump(ast.parse(mutant.text)) == wanted]
    assert [operator] == [mutant.operator for mutant in found]


def test_what_a_gradient_flows_through_is_detached() -> None:
    """Behavior: a returned tensor is detached, but where no gradient flows: in an autograd function's own steps."""
    detached = [mutant.text for mutant in made(function_of("x + w")) if mutant.operator == "detach"]
    assert [function_of("(x + w).detach()")] == detached
    by_hand = function_of("x + w").replace("x: Tensor", "ctx: Any, x: Tensor")
    assert [] == [mutant for mutant in made(by_hand) if mutant.operator == "detach"]


def test_a_statement_in_place_is_lost() -> None:
    """Behavior: a statement that changes a tensor in place can be left out."""
    text = "def f(x):\n    x.mul_(2)\n    return x\n"
    assert "def f(x):\n    x\n    return x\n" in {mutant.text for mutant in made(text)}


def test_tables_of_a_module_are_mutated_entry_by_entry() -> None:
    """Behavior: each number of a constant, and the sign of a negative one."""
    found = {mutant.text for mutant in made("LEVELS = (-1.0, 0.5)\nSTEPS = 7\n")}
    expected = {(-1.01, 0.5, 7), (1.0, 0.5, 7), (-1.0, 0.505, 7), (-1.0, 0.5, 8)}
    assert {f"LEVELS = ({a}, {b})\nSTEPS = {steps}\n" for a, b, steps in expected} == found


def test_what_decides_nothing_is_left_alone() -> None:
    """Behavior: annotations, docstrings, what an error says, imports, and casts that only a type checker reads."""
    text = '''def f(x: Annotated[int, 1 + 1]) -> "A":
    """One + two."""
    from a import b
    if x:
        raise ValueError("a" + "b")
    cast("A", x)
'''
    assert [] == made(text)


def test_a_dimension_that_is_not_a_number_is_left_alone() -> None:
    """Behavior: what stands where a dimension would is not guessed at."""
    found = {mutant.operator for mutant in made(function_of("x.sum(w).unsqueeze(eps)"))}
    assert found
    assert found.isdisjoint({"dimension_changed", "keepdim_flipped", "axis_moved"})


def test_what_does_not_compile_is_not_a_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: an operator that makes something else than Python has made nothing."""
    import libcst

    from andon.gates.measures.mutation import generate

    def renamed(name: str) -> "list[Mutant]":
        def operator(node: libcst.CSTNode) -> list[libcst.CSTNode]:
            return [libcst.Name(name)] if isinstance(node, libcst.Name) and node.value == "x" else []

        monkeypatch.setattr(generate.tensors, "OPERATORS", (operator,))
        return [mutant for mutant in made("def f(a):\n    return x\n") if mutant.operator == "operator"]

    assert ["def f(a):\n    return y\n"] == [mutant.text for mutant in renamed("y")]
    assert [] == renamed("class")


def test_a_method_is_named_by_its_class() -> None:
    """Behavior: each function by its qualified name; what stands around them is the module's."""
    from andon.gates.measures.mutation.generate import functions

    found = functions("A = 1\nclass B:\n    def f(self):\n        return A\n")
    assert {"B.f": "    def f(self):\n        return A", "<module>": "A = 1\nclass B:"} == found


def test_every_mutant_is_another_program() -> None:
    """Behavior: all of them compile, none is the original, none is there twice."""
    text = function_of("x.sum(-1, keepdim=True) * (w if eps < 0.5 else w.t()) + eps")
    found = [mutant.text for mutant in made(text)]
    for each in found:
        compile(each, "mutant", "exec")
    assert len(found) > 12
    assert len(set(found)) == len(found)
    assert text not in found


def test_the_choice_is_bounded_and_always_the_same() -> None:
    """Behavior: at most so many a function, one of each operator before two of any, wherever the function stands."""
    text = function_of("x.sum(-1, keepdim=True) * (w if eps < 0.5 else w.t()) + eps")
    few = made(text, 5)
    assert len(few) == 5
    assert len({mutant.operator for mutant in few}) == 5
    moved = made("import torch\n\n\n" + text, 5)
    assert [mutant.id for mutant in few] == [mutant.id for mutant in moved]


def test_the_same_change_in_two_places_has_two_names() -> None:
    """Behavior: two lines alike, in one function, make mutants that an excuse can tell apart."""
    found = made("def f(x):\n    y = 1\n    x(y < 2)\n    y = 1\n    x(y < 2)\n    y = 1\n")
    assert len({mutant.id for mutant in found}) == len(found)


def test_a_deleted_test_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the key changes with the function, the test, a fixture beside it, and with a test that is gone."""
    monkeypatch.chdir(tmp_path)
    text = "import x\n\ndef helper():\n    return 1\n\ndef test_a():\n    assert x\n\ndef test_b():\n    assert 1\n"

    def key(function: str = "def f(): ...", content: str = text, version: str = "1", count: int = 4) -> str:
        Path("test_a.py").write_text(content, encoding="utf-8")
        keys.parts.cache_clear()
        return keys.key(function, ["test_a.py::test_a[1]"], count, PLAN, version)

    assert key() == key(content="import y\n" + text)  # which nothing here names
    changed = [
        key(),
        key(content=text.replace("import x", "import y as x, z\nx = z")),
        key(function="def f(): pass"),
        key(content=text.replace("assert x", "assert x.y")),
        key(content=text.replace("return 1", "return 2")),
        key(content=text.replace("def test_a", "def test_c")),
        key(version="2"),
        key(count=5),
    ]
    assert len(set(changed)) == len(changed)
    assert key(content=text.replace("assert 1", "assert 2")) == changed[0]
    assert ("", {}) == keys.parts("gone.py")


def test_fast_tests_run_first_and_slow_ones_never() -> None:
    """Behavior: those that cover, by seconds, earlier killers before all, up to the plan's seconds."""
    covered = [
        Covering("slow", 1.5, ("f",)),
        Covering("b", 0.9, ("f",)),
        Covering("a", 0.1, ("f", "g")),
        Covering("c", 0.95, ("f",)),
        Covering("other", 0.1, ("g",)),
    ]
    assert ["a", "b", "c"] == keys.choose_tests(covered, "f", "", PLAN)
    assert ["c", "a", "b"] == keys.choose_tests(covered, "f", "", PLAN, ["c"])
    assert ["a", "other", "b"] == keys.choose_tests(covered, "<module>", "", PLAN)
    assert ["a", "other", "b"] == keys.choose_tests(covered, "h", "@cache\ndef h(): ...", PLAN)
    assert [] == keys.choose_tests(covered, "h", "def h(): ...", PLAN)


def kept(states: dict[str, str], key: str = "k") -> results.Results:
    """One file, one function, mutants by name and state."""
    rows = tuple(Row(name, "operator_swap_op", 1, state, "", "") for name, state in states.items())
    covered = (Covering("test_a.py::test", 0.5, ("f",)),)
    return {"a.py": File("d", covered, {"f": Function(key, ("test_a.py::test",), rows, len(rows))})}


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Behavior: what is kept comes back whole."""
    path = tmp_path / "mutation.json"
    results.write_results(kept({"m1": "killed", "m2": "survived"}), {"command": "c"}, path)
    assert kept({"m1": "killed", "m2": "survived"}) == results.read_results(path)
    assert {} == results.read_results(tmp_path / "none.json")


def test_torn_results_are_refused(tmp_path: Path) -> None:
    """Behavior: the message names the file and the next step."""
    path = tmp_path / "mutation.json"
    path.write_text('{"files": {"a.py": 1}}', encoding="utf-8")
    with pytest.raises(GateError, match=r"mutation\.json holds no results .* run `andon dev mutation`"):
        results.read_results(path)


def test_shards_joined_hold_every_mutant_once() -> None:
    """Behavior: mutants of both parts where the function is the same, of the later one alone where it is not."""
    whole = results.join([kept({"m1": "killed", "m2": "late"}), kept({"m2": "late", "m3": "killed"})])
    assert ["m1", "m2", "m3"] == [row.id for row in whole["a.py"].functions["f"].rows]
    other = results.join([kept({"m1": "killed"}), kept({"m3": "killed"}, key="new")])
    assert ["m3"] == [row.id for row in other["a.py"].functions["f"].rows]


@pytest.mark.parametrize("state", ["survived", "late", "untested", "error"])
def test_only_a_red_test_counts(state: str) -> None:
    """Behavior: what survives, hangs, is covered by no test or gives no answer lowers the score."""
    found = results.metrics(kept({"m1": "killed", "m2": state, "m3": "killed", "m4": "killed"}), {})
    assert found["score"].value == 75
    assert found["score_by_file a.py"].value == 75
    assert found[state].value == 1


def test_an_excused_mutant_counts_as_alive() -> None:
    """Behavior: an excuse leaves the score alone, and one whose mutant is gone or killed is counted."""
    excuses = {
        name: Excuse(id=name, function="a.py::f", reason="the same for every input") for name in ("m1", "m2", "x")
    }
    found = results.metrics(kept({"m1": "killed", "m2": "survived"}), excuses)
    assert found["score"].value == 50
    assert found["excused_share"].value == 150
    assert found["excuses_gone"].value == 2


def test_nothing_measured_has_no_score() -> None:
    """Behavior: without mutants there is no figure, and a file without any makes the lowest unknown."""
    assert results.metrics({}, {})["score"].value is None
    found = results.metrics({**kept({"m1": "killed"}), "b.py": File(functions={"g": Function("k", (), (), 3)})}, {})
    assert found["score"].value == 100
    assert found["score_by_file"].value is None
    assert found["missing"].value == 3


def test_a_plan_names_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what is gone or missing, an unknown key and a doubled excuse are refused by name."""
    monkeypatch.chdir(tmp_path)
    path = Path("risk.toml")
    Path("a.py").touch()
    for text, said in (
        (RISKS + 'modules = ["gone.py"]\n', r"risk\.toml: modules: gone\.py is not a file"),
        (RISKS + 'modules = ["a.py"]\n', r"risk\.toml: modules: a\.py has no test that mirrors it"),
        (RISKS + 'modules = ["a.py"]\ntests = ["b.py"]\n', r"risk\.toml: modules: a\.py: b\.py does not exist"),
        (RISKS.partition("[[modules]]")[0], "none has a minimum `mutation`"),
        ("[[levels]]" + RISKS.partition("[[levels]]")[2] + 'modules = ["a.py"]\n', "mutation: there is no such table"),
        ("color = 1\n", r"risk\.toml: color"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(GateError, match=said):
            plan.read_plan(path)
    path.write_text(
        '[[excuses]]\nid = "m"\nfunction = "f"\nreason = "no input tells them apart"\n' * 2, encoding="utf-8"
    )
    with pytest.raises(GateError, match="m is excused twice"):
        plan.read_excuses(path)


def test_a_module_is_tested_by_the_tests_that_mirror_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the test of a module's stem in the package's folder, then those that its row names, before a move."""
    monkeypatch.chdir(tmp_path)
    for name in ("app/inner/door.py", "tests/app/test_door.py", "tests/app/test_gate.py"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    row = 'modules = ["app:door"]\nper_function = 7\ntests = ["tests/app/test_gate.py"]\n'
    Path("risk.toml").write_text(RISKS + row, encoding="utf-8")
    tests = ("tests/app/test_door.py", "tests/app/test_gate.py")
    assert (plan.Module("app:door", "app/inner/door.py", 7, tests),) == plan.read_plan(Path("risk.toml")).modules
    Path("app/inner/door.py").rename("app/door.py")
    assert (plan.Module("app:door", "app/door.py", 7, tests),) == plan.read_plan(Path("risk.toml")).modules


def test_a_source_is_the_same_wherever_its_imports_lie() -> None:
    """Behavior: of imports the names count, in any order; what is imported under another name is a change."""
    text = (
        "from a.b import f, g as h\nimport c.d as e\nimport os.path\n\n\ndef test():\n    from a import k\n    f(k)\n"
    )
    moved = (
        "import c.x.d as e\nimport os.path\nfrom a.z import (\n    f,\n    g as h,\n)\n" + text.partition("\n\n\n")[2]
    )
    moved = moved.replace("from a import", "from q import")
    assert keys.unmoved(text) == keys.unmoved(moved)
    assert "def test():\n    f(k)\ne\nf\ng as h\nk\nos.path" == keys.unmoved(text)
    others = [text.replace("g as h", "f as h"), text.replace("f(k)", "f(1)"), text.replace(" as e", " as d")]
    assert len({keys.unmoved(each) for each in [text, *others]}) == 4


def test_excuses_are_by_mutant(tmp_path: Path) -> None:
    """Behavior: each by its mutant; without a file of them nothing is excused."""
    path = tmp_path / "excuses.toml"
    assert {} == plan.read_excuses(path)
    path.write_text('[[excuses]]\nid = "m"\nfunction = "f"\nreason = "no input tells them apart"\n')
    assert {"m": "f"} == {name: excuse.function for name, excuse in plan.read_excuses(path).items()}
