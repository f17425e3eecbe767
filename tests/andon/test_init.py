"""`andon init` in another project: the gates run there, go red there, and overwrite nothing."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from andon.gates.config import load_gates
from tests.tuning import andon

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package with a test, the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "__init__.py").write_text(
        "def area(a, b):\n    if a < 0:\n        return 0\n    return a * b\n"
    )
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_shapes.py").write_text(
        "from shapes import area\n\n\ndef test_area():\n    assert area(2, 3) == 6 and area(-1, 3) == 0\n"
    )
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    return tmp_path


def gate(folder: Path, *arguments: str, source: str = "") -> subprocess.CompletedProcess[str]:
    """Run `andon gate` there, with a folder of sources on Python's path."""
    command = [sys.executable, "-m", "andon", "gate", *arguments]
    environment = {"PYTHONPATH": os.pathsep.join([*([source] if source else []), str(CHECKOUT)]), "PATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.long
def test_the_gates_run_in_another_project(project: Path) -> None:
    """Behavior: after `andon init` tier 2 is green there; a failing test, or an untested half, is red."""
    assert 0 == andon("init").exit_code
    done = gate(project, "run", "tier2")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "coverage.lines" in done.stdout
    with (project / "shapes" / "__init__.py").open("a") as file:
        file.write("\n\ndef volume(a, b, c):\n    if a:\n        return area(a, b) * c\n    return 1\n")
    assert "tier2 RED: coverage.lines " in gate(project, "run", "tier2").stdout
    (project / "shapes" / "__init__.py").write_text("def area(a, b):\n    return a + b\n")
    assert "RED tests" in gate(project, "run", "tier1").stdout
    (project / "shapes" / "__init__.py").write_text("def area(a, b:\n")
    assert "RED syntax" in gate(project, "run", "tier1").stdout


@pytest.mark.tier2
def test_nothing_is_overwritten(project: Path) -> None:
    """Behavior: an andon.toml is refused by name; a noxfile stays as it is and the lines for it are printed."""
    (project / "noxfile.py").write_text("mine = True\n")
    result = andon("init")
    assert 0 == result.exit_code, result.output
    assert "mine = True\n" == (project / "noxfile.py").read_text()
    assert 'session.run("andon", "gate", "run", "tier1"' in result.output
    written = (project / "andon.toml").read_text()
    again = andon("init")
    assert 2 == again.exit_code
    assert "andon.toml already exists" in again.output
    assert written == (project / "andon.toml").read_text()


@pytest.mark.tier2
def test_what_is_written_fits_the_project(project: Path) -> None:
    """Behavior: packages in src are found, a project without tests has no test measure, an empty folder is refused."""
    (project / "src").mkdir()
    (project / "shapes").rename(project / "src" / "shapes")
    (project / "tests").rename(project / "checks")
    assert 0 == andon("init").exit_code
    gates = load_gates()
    assert (["src/shapes", "pyproject.toml"], ["syntax"]) == (gates.sources, [each.name for each in gates.measures])
    compile((project / "noxfile.py").read_text(), "noxfile.py", "exec")
    for path in ("andon.toml", "noxfile.py", "src/shapes/__init__.py"):
        (project / path).unlink()
    refused = andon("init")
    assert 2 == refused.exit_code
    assert "no package in . or src" in refused.output


@pytest.mark.slow
def test_a_real_package_adopts_the_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: on a package's own source from PyPI `andon init` finds it, tier 2 runs its tests and judges them.

    Its tests reach fewer lines than a new project's threshold: it agrees on what they reach, and goes on from there.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--no-binary=:all:", "-d", tmp_path, "markupsafe==3.0.3"], check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (root,) = (path for path in tmp_path.iterdir() if path.is_dir())
    monkeypatch.chdir(root)
    assert "src/markupsafe, with tests" in andon("init").output
    assert "tier2 RED: coverage.lines" in gate(root, "run", "tier2", source="src").stdout
    gates = (root / "andon.toml").read_text()
    (root / "andon.toml").write_text(gates.replace("value = 80", "value = 75"))
    done = gate(root, "run", "tier2", source="src")
    assert 0 == done.returncode, done.stdout + done.stderr
    (root / "src" / "markupsafe" / "_native.py").write_text("def _escape_inner(s: str, /) -> str:\n    return s\n")
    assert "tier2 RED: coverage" in gate(root, "run", "tier2", source="src").stdout
