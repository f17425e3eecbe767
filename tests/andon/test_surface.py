"""The public surface: names, options and keys as text; a change is a diff, and red until it is accepted."""

import ast
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from andon.cli.main import cli
from andon.gates.evidence import read_evidence
from andon.gates.measures.surface import changes, public_names
from andon.workshop import surface

pytestmark = pytest.mark.tier3

MODULE = """
from os import path, sep
from .other import helper
__all__ = ["sep"]
LIMIT, (_low, HIGH) = 1, (2, 3)
_hidden = 1
def made(a, /, b, c=1, *rest, d, e=2, **more): pass
def _private(): pass
class Shelf(dict):
    size: int = 3
    def add(self, book): pass
    def _sort(self): pass
class _Inner:
    def seen(self): pass
"""


def test_public_names_with_their_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what has no underscore is listed, with what a caller must know; imports only where exported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "room" / "_inner").mkdir(parents=True)
    (tmp_path / "room" / "shelf.py").write_text(MODULE)
    (tmp_path / "room" / "_inner" / "a.py").write_text("x = 1\n")
    (tmp_path / "room" / "__init__.py").write_text("VERSION = 1\n")
    expected = {
        "room.VERSION",
        "room.shelf.sep",
        "room.shelf.LIMIT",
        "room.shelf.HIGH",
        "room.shelf.made(a, /, b, c=, *rest, d, e=, **more)",
        "room.shelf.Shelf(dict)",
        "room.shelf.Shelf.size",
        "room.shelf.Shelf.add(self, book)",
    }
    assert {f"name {each}" for each in expected} == set(public_names(["room"]))


def test_options_and_keys() -> None:
    """Behavior: each verb with its options and choices, each key by its tables, `=` where it may be left out."""

    class Row(BaseModel):
        name: str

    class File(BaseModel):
        rows: list[Row] = []

    @click.group()
    def group() -> None: ...

    @group.command()
    @click.argument("place")
    @click.option("--form", "-f", type=click.Choice(["a", "b"]))
    @click.option("--fast/--slow")
    def go() -> None: ...

    assert ["key f.rows=", "key f.rows.name"] == list(surface.keys(File, "f"))
    listed = ["option x", "option x go", "option x go PLACE", "option x go --form/-f a|b", "option x go --fast/--slow"]
    assert listed == list(surface.options(group, "x"))


@pytest.mark.parametrize(
    ("now", "change"),
    [(["a", "b", "c"], ["+c"]), (["a"], ["-b"]), (["a", "b2"], ["-b", "+b2"]), (["a", "b"], [])],
)
def test_a_change_is_a_diff(now: list[str], change: list[str]) -> None:
    """Behavior: what is new, gone and different is shown, and nothing else."""
    assert change == changes(["a", "b"], now)


def test_a_new_public_name_is_red_until_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: exit code 1 with the line, then 0 once it is written to the file."""
    monkeypatch.chdir(tmp_path)
    Path("reports/baselines").mkdir(parents=True)
    Path("gates").mkdir()
    run = CliRunner().invoke
    assert 1 == run(surface.command).exit_code  # nothing was ever accepted
    assert 0 == run(surface.command, ["--write"]).exit_code
    assert 0 == run(surface.command).exit_code
    Path("gates/planted.py").write_text("def planted(a): pass\n")
    done = run(surface.command)
    assert (1, "+name gates.planted.planted(a)") == (done.exit_code, done.output.splitlines()[0])
    assert 1 == read_evidence("surface").metrics["changed"].value


def test_the_surface_names_what_readme_shows() -> None:
    """Behavior: the real lists hold known members of each sort, so that none of them is empty."""
    lines = surface.surface(cli)
    for expected in ("option andon gate run TIER", "key run.toml.lora.rank=", "key gates.toml.measures.command"):
        assert expected in lines, expected
    assert any(line.startswith("name andon.core.training.loss.loss(") for line in lines)
    assert all(
        ast.unparse(ast.parse(line.split(" ", 1)[1].split("(")[0])) for line in lines if line.startswith("name ")
    )
