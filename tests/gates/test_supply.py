"""The supply chain: licenses, declarations, and vulnerabilities that were not measured."""

import json
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from andon.gates.config import GateError
from andon.gates.evidence import read_evidence
from andon.gates.measures.supply import __main__ as command
from andon.gates.measures.supply.audit import audit, read_answer
from andon.gates.measures.supply.licenses import Package, Supply, is_allowed, license_of, read_supply, refused
from andon.gates.measures.supply.locked import read_pins, unpinned
from andon.gates.measures.supply.packages import installed

pytestmark = pytest.mark.tier3

METADATA = [
    ({"License-Expression": "MIT", "License": "whatever"}, "MIT"),
    ({"Classifier": "License :: OSI Approved :: MIT License", "License": "long text"}, "MIT License"),
    ({"License": "Apache 2.0\nCopyright of many"}, "Apache 2.0"),
    ({"Classifier": "Topic :: Games"}, ""),
]


@pytest.mark.parametrize(("fields", "expected"), METADATA)
def test_a_license_in_the_package_s_own_words(fields: dict[str, str], expected: str) -> None:
    """Behavior: the expression comes first, then classifiers, then the text's first line; nothing is guessed."""
    metadata = Message()
    for name, value in fields.items():
        metadata[name] = value
    assert expected == license_of(metadata)


EXPRESSIONS = [
    ("MIT", True),
    ("mit", True),
    ("GPL-3.0", False),
    ("", False),
    ("MIT AND BSD", True),
    ("MIT AND GPL-3.0", False),
    ("GPL-3.0 OR MIT", True),
    ("MIT AND GPL-3.0 OR BSD", True),
    ("GPL-3.0 WITH exception", False),
    ("(MIT OR GPL-3.0) AND BSD", False),
    ("(MIT OR BSD) AND MIT", True),
]


@pytest.mark.parametrize(("expression", "allowed"), EXPRESSIONS)
def test_each_part_of_an_expression_must_be_allowed(expression: str, allowed: bool) -> None:
    """Behavior: AND asks for all, OR for one; an unknown license and brackets with one are refused."""
    assert allowed == is_allowed(expression, ["MIT", "BSD"])


def package(folder: Path, name: str, terms: str) -> Distribution:
    """An installed package under a license."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\nLicense-Expression: {terms}\n")
    return Distribution.at(info)


def test_a_license_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    """Behavior: what is not allowed is named with its version; an entry in the table stands for silent metadata."""
    found = {"good": package(tmp_path, "good", "MIT"), "bad": package(tmp_path, "bad", "GPL-3.0")}
    lines = list(refused(found, Supply(allowed=["MIT"], unhashed=[], packages=[])))
    assert ["bad 1: license 'GPL-3.0' is not allowed by configs/supply.toml"] == lines
    said = Supply(allowed=["MIT"], unhashed=[], packages=[Package(name="Bad", license="MIT", why="w")])
    assert [] == list(refused(found, said))


LOCK = """# Written by a command.
Good==1 ; sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
good==2 ; sys_platform != 'linux' \\
    --hash=sha256:cc
bad==1
"""


def test_a_package_beside_the_lock_is_named(tmp_path: Path) -> None:
    """Behavior: a pin counts with a hash alone, any of several versions will do, and patterns excuse."""
    (tmp_path / "lock").write_text(LOCK)
    pins = read_pins(tmp_path / "lock")
    assert {"good": {"1", "2"}} == pins
    found = {name: package(tmp_path, name, "MIT") for name in ("good", "bad")}
    assert ["bad 1 is installed, and requirements-dev.txt does not hold it"] == list(unpinned(found, pins, ["ba"]))
    assert [] == list(unpinned(found, pins, ["ba*"]))
    assert ["good 1 is installed, and requirements-dev.txt holds 2"] == list(
        unpinned({"good": found["good"]}, {"good": {"2"}}, [])
    )


def test_requirements_are_followed_to_their_end() -> None:
    """Behavior: what a package brings counts too; other systems' and unasked extras' requirements are not."""
    found, missing = installed(["jinja2>=3", "no-such-package", "other; sys_platform == 'nowhere'"])
    assert {"jinja2", "markupsafe"} == set(found)
    assert ["no-such-package"] == missing


def test_our_own_environment_is_under_allowed_licenses() -> None:
    """Behavior: of all that pytest and pydantic bring here nothing is refused."""
    found, _ = installed(["pytest", "pydantic", "hypothesis"])
    assert len(found) > 8
    assert [] == list(refused(found, read_supply()))


ANSWERS = [
    ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', []),
    ('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}]}', ["a 1: X-1"]),
    ('{"dependencies": [{"name": "a", "skip_reason": "no answer"}]}', None),
    ('{"dependencies": []}', None),
    ("", None),
    ("No known vulnerabilities found", None),
]


@pytest.mark.parametrize(("output", "found"), ANSWERS)
def test_no_answer_is_not_measured(output: str, found: list[str] | None) -> None:
    """Behavior: only packages that a source answered for count; without any it says so in so many words."""
    known, words = read_answer(output, "no route to host")
    assert found == known
    assert (found is None) == words.startswith("not measured: no advisory source answered")


def test_without_the_tool_it_is_not_measured() -> None:
    """Behavior: an interpreter that is none, or has no pip-audit, is not an answer."""
    known, words = audit("/no/such/python")
    assert (None, True) == (known, words.startswith("not measured: /no/such/python cannot run"))
    assert (None, "not measured: no advisory source answered (it printed nothing)") == audit("false")


def test_a_comparison_that_does_not_run_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: where deptry leaves no answer, there is none, and not an empty one."""
    monkeypatch.setattr(command.sys, "executable", "false")
    assert command.undeclared() is None


def test_evidence_and_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: vulnerabilities are null unless measured; a missing package and a bad allow list are red."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "undeclared", list)
    assert 2 == command.main([])
    (tmp_path / "configs").mkdir()
    allow = tmp_path / "configs" / "supply.toml"
    allow.write_text('allowed = ["MIT"]\nunhashed = ["iniconfig"]\npackages = []\n')
    assert 2 == command.main([])
    (tmp_path / "requirements-dev.txt").touch()
    project = '[project]\ndependencies = ["{}"]\n'
    (tmp_path / "pyproject.toml").write_text(project.format("iniconfig"))
    assert 0 == command.main([])
    metrics = read_evidence("supply").metrics
    assert (0, 0, None) == tuple(metrics[name].value for name in ("licenses", "dependencies", "vulnerabilities"))
    (tmp_path / "pyproject.toml").write_text(project.format("no-such-package"))
    assert 1 == command.main([])
    allow.write_text('allowed = ["MIT"]\nunhashed = []\npackages = []\n')
    (tmp_path / "pyproject.toml").write_text(project.format("iniconfig"))
    assert (1, 1) == (command.main([]), read_evidence("supply").metrics["unpinned"].value)
    allow.write_text('allowed = "MIT"\nunhashed = []\npackages = []\n')
    with pytest.raises(GateError, match="allowed: "):
        read_supply()


def test_an_undeclared_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: deptry's findings come with file, line and rule."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "p"\nversion = "1"\ndependencies = []\n')
    (tmp_path / "a.py").write_text("import json\nimport jinja2\n")
    found = command.undeclared()
    assert found is not None
    assert json.dumps(found).startswith('["a.py:2: DEP00')
