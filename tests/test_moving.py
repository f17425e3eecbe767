"""What a move of a module costs: imports follow by themselves, and hardly a file beside them."""

from pathlib import Path

import pytest

from andon.gates.names import file_of
from tests import moving

ROOT = Path(__file__).parents[1]
BEFORE = """
from andon.core.data import corpus, strips as pieces
from andon.core.data.strips import (
    spread,  # a comment goes
)
def late():
    from andon.core.data import strips
    from andon.core.data.strips_too import other
"""
AFTER = """
from andon.core.data import corpus
from andon.core.files import strips as pieces
from andon.core.files.strips import spread
def late():
    from andon.core.files import strips
    from andon.core.data.strips_too import other
"""


@pytest.mark.tier2
def test_imports_follow_a_module() -> None:
    """Behavior: of the module, from the module and among others of its folder; a longer name is another's."""
    assert AFTER == moving.imports_moved(BEFORE, "andon.core.data.strips", "andon.core.files.strips")


@pytest.mark.long
@pytest.mark.parametrize("name", moving.MOVES)
def test_a_move_changes_at_most_three_files_beside_imports(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: faults of core and gates, tables, baselines and documents find a module after `git mv`."""
    monkeypatch.chdir(ROOT)
    root = moving.copied(tmp_path / "tree")
    assert moving.MOST >= len(moving.moved(file_of(name), moving.MOVES[name], root))
    assert (root / moving.MOVES[name] / Path(file_of(name)).name).is_file()


@pytest.mark.long
def test_a_file_that_names_the_old_place_is_counted(tmp_path: Path) -> None:
    """Behavior: text with a path or a dotted name counts, one with an import alone does not."""
    texts = {
        "core/data/strips.py": "A = 1\n",
        "uses.py": "from andon.core.data.strips import A\n",
        "path.md": "see core/data/strips.py\n",
        "dotted.toml": 'module = "andon.core.data.strips"\n',
        "pyproject.toml": "",
    }
    for place, text in texts.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    moving.git("init", "-q", cwd=tmp_path)
    moving.git("add", "-A", cwd=tmp_path)
    moving.git("commit", "-qm", "m", cwd=tmp_path)
    assert ["dotted.toml", "path.md"] == moving.moved("core/data/strips.py", "core/files", tmp_path)
    assert "from andon.core.files.strips import A\n" == (tmp_path / "uses.py").read_text()
