"""`andon verify --write`: what was captured, as code that makes the same Subject and passes the checks."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from andon.door.written import refused, write
from tests.door.conftest import Door

PYTHON = (sys.executable, "train.py")
WRITE = ("--write", "my_checks.py")
SHOWN = """
import my_checks
batch = my_checks.subject().batch(None)
print(", ".join(f"{name} {tuple(part.shape)}" for name, part in batch.items()))
"""
SCRIPTS = {
    "language.py": ["causal=True,", '"grad_clip": 1.0'],
    "nano_text/train.py": [
        'objective="cross_entropy",',
        'roles={"tokens": "idx", "labels": "targets"},',
        "# accumulation: a step makes 2",
    ],
    "shapes_cnn/train.py": ['"learning_rate": 0.001'],
    "seq_to_seq_dates/train.py": ['"tokens": "tgt"'],
}


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_written_passes(door: Door, script: str) -> None:
    """Behavior: the file says what was measured, makes the batch that was captured, and passes `andon verify`."""
    door.write(script)
    seen = door.verify(*PYTHON, options=WRITE)
    text = (door.folder / "my_checks.py").read_text()
    assert (0, "my_checks.py", "") == (seen["code"], seen["written"], seen["not_written"])
    assert [] == [line for line in SCRIPTS[script] if line not in text]
    captured = next(line for line in seen["captured"] if line.startswith("captured"))
    assert captured.endswith(f"batch {door.run(sys.executable, '-c', SHOWN).stdout.strip()}")
    done = door.run(sys.executable, "-m", "andon", "verify", "--json", "my_checks:subject", "--budget", "40")
    report = json.loads(done.stdout)[0]
    assert ("train.py", []) == (report["subject"], report["findings"]), done.stderr


@pytest.mark.long
def test_a_fault_is_found_by_what_is_written(door: Door) -> None:
    """Behavior: the file of a script without its mask is written all the same, and is red by itself."""
    door.write("language.py", ("is_causal=True", "is_causal=False"))
    seen = door.verify(*PYTHON, options=WRITE)
    assert (1, "my_checks.py") == (seen["code"], seen["written"])
    again = door.run(sys.executable, "-m", "andon", "verify", "-q", "my_checks:subject", "--only", "attention")
    assert (1, True) == (again.returncode, "RED attention.causality" in again.stdout)


@pytest.mark.long
def test_a_package_with_arguments(door: Door) -> None:
    """Behavior: `python -m` with its arguments is run as it was, from a copy as well; a script in a folder, too."""
    (door.folder / "pack").mkdir()
    door.write("language.py", name="pack/train.py")
    words = ("--rate", 'a "b"')
    door.verify(sys.executable, "-m", "pack.train", *words, options=("--in-copy", *WRITE))
    assert 'sys.argv = ["pack.train", "--rate", "a \\"b\\""]' in (door.folder / "my_checks.py").read_text()
    assert "ids (8" in door.run(sys.executable, "-c", SHOWN).stdout
    (door.folder / "my_checks.py").unlink()
    door.verify(sys.executable, "pack/train.py", options=WRITE)
    assert 'sys.path.insert(0, "pack")' in (door.folder / "my_checks.py").read_text()
    assert "ids (8" in door.run(sys.executable, "-c", SHOWN).stdout


@pytest.mark.long
def test_nothing_captured_is_said_and_nothing_is_written(door: Door) -> None:
    """Behavior: exit code 3, the reason in a line, no file."""
    door.write(
        "language.py", ("WIDTH, TIME, ROWS, STEPS = 23, 16, 12, 8, 24", "WIDTH, TIME, ROWS, STEPS = 23, 16, 12, 8, 2")
    )
    done = door.run(sys.executable, "-m", "andon", "verify", "-q", *WRITE, "--", *PYTHON)
    assert 3 == done.returncode, done.stderr
    assert "my_checks.py is not written, as nothing was captured" in done.stderr.splitlines()[-1]
    assert not (door.folder / "my_checks.py").exists()


@pytest.mark.tier3
def test_what_cannot_be_written_is_refused_before_the_script_runs(door: Door) -> None:
    """Behavior: a file that exists stays as it is; `--watch-only` captures nothing."""
    (door.folder / "my_checks.py").write_text("mine")
    door.write("language.py")
    said = [
        door.run(sys.executable, "-m", "andon", "verify", *options, "--", *PYTHON)
        for options in (WRITE, ("--write", "other.py", "--watch-only"))
    ]
    assert [(2, ""), (2, "")] == [(each.returncode, each.stdout) for each in said]
    assert "is there already: name another file, or remove it" in said[0].stderr
    assert "leave one of them out" in said[1].stderr
    assert "mine" == (door.folder / "my_checks.py").read_text()


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("name", "rule"),
    [("my-checks.py", "'my-checks' is no name"), ("checks.txt", "not a Python file"), ("../a.py", "in this folder")],
)
def test_a_name_that_cannot_be_imported_is_refused(name: str, rule: str) -> None:
    """Behavior: the file must be one that `andon verify` can import from here."""
    assert rule in refused(Path(name))


@pytest.mark.tier1
def test_ranks_and_programs_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a process that code cannot start again is not written, with the reason."""
    monkeypatch.chdir(tmp_path)
    result: dict[str, Any] = {
        "captured": ["captured at step 3"],
        "traits": {},
        "entry": {"lack": "one rank of several"},
    }
    writing = write(Path("my_checks.py"), "torchrun train.py", [result])
    assert "my_checks.py is not written, as nothing was captured: one rank of several" == str(writing)
    assert [] == list(tmp_path.iterdir())
