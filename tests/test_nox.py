"""The sessions: one environment, built once, rebuilt when half-built, and exit codes that pass through."""

import ast
import os
import select
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.sessions import measure_functions, measures, sessions

ROOT = Path(__file__).parents[1]
GROUPS = ("START", "GATES", "TESTS", "CHECKS", "CODE", "SPEED", "UPKEEP")
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "p"
dependencies = [{wheel!r}]
[project.optional-dependencies]
"""
BACKEND = """
import shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    return shutil.copy("p-0-py3-none-any.whl", folder).rpartition("/")[2]
"""


def nox(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run nox in a folder."""
    command = [sys.executable, "-m", "nox", "--nocolor", *arguments]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


def write_wheel(folder: Path, name: str, version: str, entry_points: str = "") -> Path:
    """A package of one empty module, with these scripts."""
    wheel, about = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
        archive.writestr(f"{about}/entry_points.txt", entry_points)
    return wheel


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with our noxfile, a dependency that needs no network, and a bench that exits as its argument says."""
    folder = tmp_path_factory.mktemp("project")
    wheel = write_wheel(folder, "stub", "1")
    write_wheel(folder, "p", "0", "[console_scripts]\nandon = stub:main\n")
    (folder / "backend.py").write_text(BACKEND)
    shutil.copy(ROOT / "noxfile.py", folder)
    (folder / "requirements-dev.txt").touch()
    extras = "".join(f"{extra} = []\n" for extra in ("train", "verify", "trace", "dev"))
    (folder / "pyproject.toml").write_text(PROJECT.format(wheel=f"stub @ {wheel.as_uri()}") + extras)
    (folder / "tests").mkdir()
    (folder / "tests" / "bench.py").write_text("import sys, stub\nsys.exit(int(sys.argv[1]))\n")
    return folder


@pytest.mark.tier2
def test_the_list_of_sessions_reads_as_help() -> None:
    """Behavior: each session is one line that says what it does; the default is marked."""
    lines = nox(ROOT, "-l").stdout.splitlines()
    listed = {line[2:].partition(" -> ")[0]: line for line in lines if line[:2] in ("- ", "* ")}
    assert list(sessions()) == list(listed)
    assert all(line.rstrip().endswith(".") for line in listed.values())
    groups = [line.partition(" -> ")[2].partition(":")[0] for line in listed.values()]
    assert list(GROUPS) == list(dict.fromkeys(groups))  # in this order, and each in one piece
    assert sorted(groups, key=GROUPS.index) == groups
    assert 25 > len(listed)
    assert 120 > max(map(len, listed.values()))
    assert ["tier1"] == [name for name, line in listed.items() if line.startswith("*")]


@pytest.mark.tier2
def test_a_measure_that_is_not_there_is_answered_by_those_that_are() -> None:
    """Behavior: red, without touching the environment, with every measure in a line."""
    done = nox(ROOT, "-s", "measure", "--", "no-such")
    listed = [line.split()[0] for line in done.stderr.splitlines() if line.startswith("  ")]
    assert (1, measures()) == (done.returncode, listed), done.stderr


@pytest.mark.tier1
def test_every_measure_passes_its_options_on() -> None:
    """Behavior: what follows a measure's name reaches a command, where it is known or refused by name."""
    functions = measure_functions()
    assert len(measures()) == len(functions)
    for each in functions:
        assert each.args.vararg, each.name
        passed = [node for node in ast.walk(each) if isinstance(node, ast.Starred)]
        assert each.args.vararg.arg in {ast.unparse(node.value) for node in passed}, each.name


@pytest.mark.long
def test_one_environment_is_built_once_and_anew_when_half_built(project: Path) -> None:
    """Behavior: a warm run installs nothing; changed dependencies do; a half-built environment is rebuilt."""
    built = "installing the shared environment"
    first = nox(project, "-s", "bench", "--", "3")
    assert (3, True) == (first.returncode, built in first.stderr), first.stdout + first.stderr
    assert (project / ".venv" / "bin" / "andon").stat().st_mode & 0o111
    warm = nox(project, "-s", "bench", "--", "0")
    assert (0, False) == (warm.returncode, built in warm.stderr), warm.stdout + warm.stderr

    mine = project / ".venv" / "mine"
    mine.touch()
    with (project / "pyproject.toml").open("a") as file:
        file.write("more = []\n[tool.other]\nkey = 1\n")
    assert built not in nox(project, "-s", "bench", "--", "0").stderr  # nothing of what is installed has changed
    (project / ".venv" / "andon-shared.stamp").unlink()
    assert built in nox(project, "-s", "bench", "--", "0").stderr
    assert mine.exists()  # an environment made by hand is completed, not thrown away

    (project / ".venv" / "building").touch()
    assert built in nox(project, "-s", "bench", "--", "0").stderr
    assert not mine.exists()


@pytest.mark.long
def test_a_signal_reaches_the_command_and_its_exit_code_comes_back(project: Path) -> None:
    """Behavior: SIGTERM to nox lets the command end in its own time, with its own exit code."""
    fifo = project / "alive"
    subprocess.run(["mkfifo", fifo], check=True)
    (project / "tests" / "bench.py").write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        f"with open({str(fifo)!r}, 'w') as file:\n    file.write('x')\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-m", "nox", "-s", "bench"], cwd=project) as process:
        alive = os.open(fifo, os.O_RDWR)  # both ends, so that a command which never starts is not an endless wait
        assert select.select([alive], [], [], 60)[0]
        process.send_signal(signal.SIGTERM)
        assert 7 == process.wait(60)


@pytest.mark.tier1
def test_the_ci_script_runs_what_readme_promises() -> None:
    """Behavior: demo, tier3 and tests, in this order, the last without nox's own lines."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    sessions = [
        line.partition(" -s ")[2].split()[0] for line in script.splitlines() if '/nox" ' in line and " -s " in line
    ]
    assert ["demo", "tier3", "tests"] == sessions
    assert script.startswith("#!/usr/bin/env bash\n")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
