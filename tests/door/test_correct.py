"""Correct scripts that look like a fault: none is red, and each prints and writes what it does alone."""

import sys
from pathlib import Path

import pytest

from tests.door.conftest import Door

HERE = Path(__file__).parent / "correct"
TYPED = "one\ntwo\nthree\nfour\nfive\nsix\n"


def written(folder: Path) -> dict[str, bytes]:
    """All files of a run."""
    return {str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()}


def runs_in(folder: Path) -> list[str]:
    """Processes that work there."""
    folders = {each.parent.name: each for each in Path("/proc").glob("[0-9]*/cwd")}
    return [name for name, each in folders.items() if each.exists() and folder == each.resolve()]


@pytest.mark.long
@pytest.mark.parametrize("script", sorted(HERE.glob("*.py")), ids=lambda path: path.stem)
def test_a_correct_script_is_not_red(script: Path, tmp_path: Path) -> None:
    """Behavior: yellow at most; the same output and the same files, to the byte; what is typed reaches the script."""
    alone, seen = Door(tmp_path / "alone"), Door(tmp_path / "seen")
    for each in (alone, seen):
        each.folder.mkdir()
        (each.folder / "train.py").write_text(script.read_text())
    done = alone.run(sys.executable, "train.py", typed=TYPED)
    found = seen.verify(sys.executable, "train.py", typed=TYPED)
    assert [] == [each["message"] for each in found["findings"] if each["light"] == "red"]
    assert (0, done.stdout, written(alone.folder)) == (found["code"], found["stderr"], written(seen.folder))
    assert [] == runs_in(seen.folder)
