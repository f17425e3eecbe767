"""Places in source: found wherever they lie, compared by syntax, refused where they are not the only one."""

import ast
from pathlib import Path

import pytest

from andon.source import SourceError, definitions, find, replaced

pytestmark = pytest.mark.tier1
TEXT = """
LEVELS = [1, 2]


class Block:
    size: int = 3

    def forward(self, x):
        # what is added
        y = self.attn(  x, mask = None )
        for each in x:
            y = y + each
        if y:
            return y
        return x
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `app` of two modules in folders, each with a function `build`."""
    for path in ("app/models/door.py", "app/views/gate.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("def build(): ...\n")
    (tmp_path / "app/views/gate.py").write_text("def build(): ...\ndef open_it(): ...\n")
    (tmp_path / "app/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_a_module_defines_has_qualified_names() -> None:
    """Behavior: variables, classes, their fields and methods are named; what a function defines belongs to it."""
    assert ["LEVELS", "Block", "Block.size", "Block.forward"] == list(definitions(TEXT))


def test_a_definition_is_found_wherever_it_lies(package: Path) -> None:
    """Behavior: a name that one module has is found by it, another by the module's stem too, also after a move."""
    assert "app.views.gate" == find("app:open_it").module
    assert "app.models.door" == find("app:door.build").module
    (package / "app/views/gate.py").rename(package / "app/gate.py")
    assert ("app.gate", package / "app/gate.py", "open_it") == find("app:open_it")
    assert "app.gate" == find("app:open_it", package).module


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("app:build", r"2 modules \(app.models.door, app.views.gate\).*STEM.build"),
        ("app:absent", "no module of app"),
        ("barn:build", "no package barn"),
    ],
)
def test_a_place_that_is_not_the_only_one_is_refused(where: str, said: str) -> None:
    """Behavior: none, several and no package are told apart, each with the name."""
    with pytest.raises(SourceError, match=said):
        find(where)


@pytest.mark.parametrize(
    ("before", "after", "old", "new"),
    [
        ("self.attn(x, mask=None)", "x", "self.attn(  x, mask = None )", "(x)"),
        ("y = y + each", "y = y - each\ny = -y", "y = y + each", "y = y - each\n            y = -y"),
        ("for each in x:\n    ...", "x = x\nfor each in y:\n    ...", "for each in x", "x = x\n        for each in y"),
        ("if y:\n    return y\nreturn x", "return x", "if y:\n            return y\n        return x", "return x"),
    ],
)
def test_syntax_is_replaced_and_all_else_stays(before: str, after: str, old: str, new: str) -> None:
    """Behavior: an expression, statements in a row, and a statement whose body stays, at the right indentation."""
    changed = replaced(TEXT, "Block.forward", before, after)
    assert TEXT.replace(old, new) == changed
    ast.parse(changed)


@pytest.mark.parametrize(
    ("name", "before", "said"),
    [
        ("Block.forward", "y", "3 times in Block.forward"),
        ("LEVELS", "3", "0 times in LEVELS"),
        ("Block.backward", "3", "there is no Block.backward"),
        ("Block.forward", "if y:", "neither an expression nor statements"),
        ("Block.forward", "while y:\n    ...", "0 times"),
    ],
)
def test_what_does_not_stand_once_is_refused(name: str, before: str, said: str) -> None:
    """Behavior: the message says the name and how often it stands there."""
    with pytest.raises(SourceError, match=said):
        replaced(TEXT, name, before, "0")


@pytest.mark.parametrize("odd", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_only_newlines_end_a_line(odd: str) -> None:
    """Behaviour: what `str.splitlines` takes for the end of a line and Python does not moves no place."""
    text = f"# odd{odd}comment\ndef forward(x):\n    return x + 1\n"
    assert text.replace("x + 1", "(x + 2)") == replaced(text, "forward", "x + 1", "x + 2")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_each_kind_of_newline_ends_a_line(newline: str) -> None:
    """Behaviour: lines end where Python's own do, whichever system wrote them."""
    text = newline.join(["# note", "def forward(x):", "    return x + 1", ""])
    assert text.replace("x + 1", "(x + 2)") == replaced(text, "forward", "x + 1", "x + 2")
