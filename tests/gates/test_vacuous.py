"""Tests that cannot fail are found, each kind of them; clean idioms are not accused."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from andon.gates.evidence import read_evidence
from andon.gates.measures.vacuous import __main__ as command
from andon.gates.measures.vacuous.__main__ import main
from andon.gates.measures.vacuous.reading import find_tests_in, read_file
from andon.gates.measures.vacuous.running import RunError, Stubbed, collect, run_stubbed, sample, sort_answers
from andon.gates.measures.vacuous.stubs import modules_of

VACUOUS = {
    "no assertion": [
        "def test_a():\n    value = 1 + 1\n    print(value)\n",
        "def test_a():\n    return\n    assert 1 == value\n",
        "def test_a():\n    if False:\n        assert 1 == value\n",
        "def test_a():\n    def inner():\n        assert 1 == value\n",
        "def helper(x):\n    print(x)\ndef test_a():\n    helper(3)\n",
        "class TestA:\n    def test_a(self):\n        x = [1]\n        x.append(2)\n",
    ],
    "itself": [
        "def test_a():\n    x = f()\n    assert x == x\n",
        "def test_a():\n    x = f()\n    assert x.y[0] is x.y[0]\n",
        "def test_a():\n    f()\n    assert True\n",
        "def test_a():\n    x = f()\n    assert (x == 1, 'message')\n",
        "def test_a():\n    x = f()\n    assert x == 1 or 'text'\n",
        "def test_a():\n    f()\n    assert 1 == 1\n",
    ],
    "empty set": [
        "def test_a():\n    for x in []:\n        assert f(x)\n",
        "def test_a():\n    for x in {}:\n        assert f(x)\n",
        "CASES = []\ndef test_a():\n    for x in CASES:\n        assert f(x)\n",
        "def test_a():\n    found = ()\n    assert all(f(x) for x in found)\n",
        "def test_a():\n    assert not any(f(x) for x in range(0))\n",
        "@pytest.mark.parametrize('x', [])\ndef test_a(x):\n    assert f(x)\n",
    ],
    "swallowed": [
        "def test_a():\n    try:\n        assert f() == 1\n    except Exception:\n        pass\n",
        "def test_a():\n    try:\n        assert f() == 1\n    except (OSError, AssertionError):\n        g()\n",
        "def test_a():\n    with contextlib.suppress(AssertionError):\n        assert f() == 1\n",
    ],
    "only mocks": [
        "def test_a():\n    m = Mock()\n    m.f.return_value = 3\n    assert m.f() == 3\n",
        "def test_a():\n    m = mock.MagicMock()\n    m(1)\n    m.assert_called_once_with(1)\n",
    ],
}

CLEAN = [
    "def test_a():\n    assert f() == f()\n",  # two runs agree
    "def test_a():\n    x = f()\n    assert x != x\n",  # not a number
    "def test_a():\n    with pytest.raises(ValueError):\n        f()\n",
    "def helper(x):\n    assert x\ndef test_a():\n    helper(f())\n",
    "def inner(x):\n    if x:\n        raise Odd\ndef outer(x):\n    inner(x)\ndef test_a():\n    outer(f())\n",
    "def test_a():\n    library.check(f())\n",  # may raise
    "def test_a():\n    def inner():\n        assert f()\n    run(inner)\n",
    "def test_a():\n    found = []\n    f(found)\n    assert all(found)\n",
    "def test_a():\n    found = []\n    found.append(f())\n    for x in found:\n        assert x\n",
    "CASES = [1]\ndef test_a():\n    for x in CASES:\n        assert f(x)\n",
    "def test_a():\n    try:\n        f()\n    except Odd as e:\n        assert e.x\n    else:\n        fail()\n",
    "def test_a():\n    try:\n        assert f() == 1\n    finally:\n        g()\n",
    "def test_a():\n    try:\n        assert f() == 1\n    except OSError:\n        pass\n    assert g()\n",
    "def test_a():\n    m = Mock()\n    f(m)\n    m.assert_called_once_with(1)\n",
    "@pytest.fixture\ndef held():\n    yield 1\n    assert f()\ndef test_a(held):\n    print(held)\n",
    "def not_a_test():\n    pass\n",
]


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("kind", "source"), [(kind, source) for kind, sources in VACUOUS.items() for source in sources]
)
def test_each_kind_is_found(kind: str, source: str) -> None:
    """Behavior: a test that cannot fail is accused, of its kind, at its line."""
    found = read_file("test_a.py", source)
    assert kind in [finding.kind for finding in found]
    assert all(1 <= finding.line <= source.count("\n") for finding in found)


@pytest.mark.tier3
@pytest.mark.parametrize("source", CLEAN)
def test_clean_idioms_are_not_accused(source: str) -> None:
    """Behavior: what can fail is not accused, also where it fails through what it calls."""
    assert [] == read_file("test_a.py", source)


@pytest.mark.tier3
def test_our_own_tests_read_as_tests_that_can_fail() -> None:
    """Behavior: the budget is zero, over every test file of this project."""
    files = find_tests_in(Path("tests"))
    assert len(files) > 80
    assert [] == [str(each) for path in files for each in read_file(str(path), path.read_text(encoding="utf-8"))]


CODE = """
def add(a, b):
    return a + b


class Shelf:
    def __init__(self, books):
        self.books = books

    @property
    def size(self):
        return len(self.books)


def refuse(n):
    if n < 0:
        raise ValueError(n)


def made(n):
    def inner():
        return n
    return inner
"""
TESTS = """
import subprocess
import sys

import pytest

from stubbed_package.sums import Shelf, add, made, refuse


@pytest.fixture
def shelf():
    return Shelf([add(1, 1)])


def test_notices():
    assert add(1, 2) == 3


def test_notices_a_property(shelf):
    assert shelf.size == 1


def test_notices_a_closure():
    assert made(3)() == 3


def test_vacuous():
    assert add(1, 2) is not False


def test_silent():
    refuse(3)


def test_elsewhere():
    code = "from stubbed_package.sums import add; print(add(1, 2))"
    assert "3" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a module, and tests of it of every sort."""
    package, tests = tmp_path / "stubbed_package", tmp_path / "tests" / "stubbed_package"
    package.mkdir()
    tests.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sums.py").write_text(CODE)
    (tests / "test_sums.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.long
def test_tests_are_run_while_their_code_does_nothing(project: Path) -> None:
    """Behavior: who passes is named, who fails has noticed, who only stays silent or runs elsewhere is counted."""
    found = run_stubbed(["tests"])
    assert (3, 1, 1) == (found.noticed, found.silent, found.not_run)
    assert ["test_vacuous"] == [finding.test for finding in found.findings]
    assert (2 + TESTS[: TESTS.index("def test_vacuous")].count("\n") - 1) == found.findings[0].line
    assert 1 == main(["tests", "--sample", "6", "--run", "tests"])
    counts = read_evidence("vacuous").metrics
    assert (1, 1, 0) == (counts["vacuous"].value, counts["vacuous stubbed"].value, counts["vacuous itself"].value)
    (project / "tests" / "stubbed_package" / "test_sums.py").write_text("def test_a(:\n")
    assert 2 == main(["tests"])


LEFT = '''import subprocess
import sys

from stubbed_package.sums import add

HOLD = """
import filelock, time

lock = filelock.FileLock("held")
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_left():
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    assert b"held" in other.stdout.readline()
    assert add(1, 1) == 2
'''


@pytest.mark.long
def test_what_a_test_leaves_running_ends_with_the_run(project: Path) -> None:
    """Behavior: a process that code which does nothing never ended holds nothing afterwards."""
    (project / "tests" / "stubbed_package" / "test_left.py").write_text(LEFT)
    assert 1 == run_stubbed(["tests/stubbed_package/test_left.py"]).noticed
    with FileLock(project / "held", timeout=10):
        assert (project / "held").exists()


@pytest.mark.long
@pytest.mark.parametrize("operation", [run_stubbed, collect])
def test_tests_that_pytest_cannot_run_are_an_error(operation: Callable[[list[str]], object]) -> None:
    """Behavior: pytest's own words are passed on."""
    with pytest.raises(RunError, match="no-such-option"):
        operation(["--no-such-option"])


@pytest.mark.tier3
def test_all_tests_are_run_where_no_sample_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: --run passes its words on as they are; what the tests said is counted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_a.py").write_text("def test_a():\n    assert f()\n")
    told: list[list[str]] = []
    monkeypatch.setattr(command, "run_stubbed", lambda arguments: told.append(arguments) or Stubbed(1, 0, 0, []))
    assert 0 == main(["test_a.py", "--run", "-m", "tier1"])
    assert [["-m", "tier1"]] == told


@pytest.mark.tier3
def test_a_file_that_mirrors_no_module_tests_what_it_imports() -> None:
    """Behavior: the module of that stem in the package, else all of the project that the file takes from."""
    here, root = sys.modules[__name__], Path(__file__).parents[2]
    for place in ("test_running.py", "vacuous/test_running.py"):
        (mirrored,) = modules_of(here, root / "tests" / "gates" / place, root)
        assert Stubbed.__module__ == mirrored.__name__
    assert mirrored not in modules_of(here, root / "tests" / "core" / "test_running.py", root)[:1]
    found = {module.__name__ for module in modules_of(here, root / "tests" / "test_none.py", root)}
    assert {
        Stubbed.__module__,
        modules_of.__module__,
        read_evidence.__module__,
    } <= found
    assert {"andon.gates"} == {name[: len("andon.gates")] for name in found}


@pytest.mark.tier3
def test_answers_are_sorted() -> None:
    """Behavior: one assertion and one call make the difference between vacuous, silent and not run."""
    shape = [("passed", 1, 1), ("passed", 1, 0), ("passed", 0, 1), ("failed", 0, 0), ("skipped", 0, 0)]
    answers = [
        {"test": f"a.py::t{i}", "line": 3, "outcome": o, "calls": c, "asserted": a} for i, (o, c, a) in enumerate(shape)
    ]
    found = sort_answers(answers)
    assert (1, 1, 2, ["t0"]) == (found.noticed, found.silent, found.not_run, [each.test for each in found.findings])


@pytest.mark.tier3
def test_a_sample_is_the_commit_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: one commit always draws the same tests, another one others; no tests at all is red."""
    tests = [f"test_{number}" for number in range(100)]
    first, second = sample(tests, 10, "a"), sample(tests, 10, "b")
    assert (10, first) == (len(first), sample(tests[::-1], 10, "a"))
    assert set(first) != set(second)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    assert 1 == main(["tests"])
    assert read_evidence("vacuous").metrics["vacuous"].value is None
