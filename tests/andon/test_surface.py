"""The public surface: names, options and keys as text; a change is a diff, and red until it is accepted."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from andon.cli.main import cli
from andon.gates.evidence import read_evidence
from andon.gates.measures.surface import SurfaceError, changes, public_names
from andon.workshop import surface

pytestmark = pytest.mark.tier3

INIT = """
from typing import TYPE_CHECKING
from package.options import Options as Settings
if TYPE_CHECKING:
    from package import inputs
    from package.layers import LIMIT, Layer, made
__all__ = ["LIMIT", "Layer", "Settings", "here", "inputs", "made"]
def here(): pass
def not_exported(): pass
"""
LAYERS = """
from package.options import Options
LIMIT = 1
def made(a, /, b, c=1, *rest, d, e=2, **more): pass
class Layer(dict):
    size: int = 3
    def add(self, value, *, at=0): pass
    def _sort(self): pass
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose names come from its modules; its `__init__.py`."""
    (tmp_path / "package").mkdir()
    for name, text in (("__init__", INIT), ("layers", LAYERS), ("options", "class Options: ..."), ("inputs", "")):
        (tmp_path / "package" / f"{name}.py").write_text(text)
    return tmp_path / "package" / "__init__.py"


def test_public_names_with_their_parameters(package: Path) -> None:
    """Behavior: what `__all__` names is listed, from wherever it comes, with what a caller must know; nothing else."""
    expected = [
        "package.LIMIT",
        "package.Layer(dict)",
        "package.Layer.size",
        "package.Layer.add(self, value, *, at=)",
        "package.Settings()",
        "package.here()",
        "package.inputs",
        "package.made(a, /, b, c=, *rest, d, e=, **more)",
    ]
    assert [f"name {each}" for each in expected] == list(public_names(["package"], package.parents[1]))
    for private in ("options", "inputs"):  # a move changes nothing
        (package.parent / "inner").mkdir(exist_ok=True)
        (package.parent / f"{private}.py").rename(package.parent / "inner" / f"{private}.py")
    moved = INIT.replace("package.options", "package.inner.options").replace(
        "from package import", "from package.inner import"
    )
    package.write_text(moved)
    assert [f"name {each}" for each in expected] == list(public_names(["package"], package.parents[1]))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"made"', '"make"', "names 'make', which is defined nowhere"),
        ("__all__", "ALL", "has no `__all__`"),
    ],
)
def test_what_is_exported_must_be_there(package: Path, old: str, new: str, said: str) -> None:
    """Behavior: a name that nothing defines, and a package that lists none, are refused."""
    package.write_text(INIT.replace(old, new))
    with pytest.raises(SurfaceError, match=said):
        list(public_names(["package"], package.parents[1]))


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
    for name in ("core", "gates", "tracing", "verify"):
        Path("andon", name).mkdir(parents=True)
        Path("andon", name, "__init__.py").write_text("__all__ = []\n")
    run = CliRunner().invoke
    assert 1 == run(surface.command).exit_code  # nothing was ever accepted
    assert 0 == run(surface.command, ["--write"]).exit_code
    assert 0 == run(surface.command).exit_code
    Path("andon/gates/__init__.py").write_text('__all__ = ["added"]\ndef added(a): pass\n')
    done = run(surface.command)
    assert (1, "+name andon.gates.added(a)") == (done.exit_code, done.output.splitlines()[0])
    assert 1 == read_evidence("surface").metrics["changed"].value


def test_another_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour: the surface is that of Andon's own checkout; elsewhere the message says so, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["dev", "surface", "--write"])
    assert (2, f"andon: {tmp_path} is no checkout of Andon: run `andon dev surface` in the root of one\n") == (
        done.exit_code,
        done.stderr,
    )
    assert [] == list(tmp_path.iterdir())


def test_the_surface_names_what_readme_shows() -> None:
    """Behavior: the real lists hold known members of each sort, so that none of them is empty."""
    lines = surface.surface(cli)
    for expected in ("option andon gate run TIER", "key run.toml.lora.rank=", "key gates.toml.measures.command"):
        assert expected in lines, expected
    for package in surface.PACKAGES:
        assert any(line.startswith(f"name {package}.") for line in lines), package


@pytest.mark.parametrize("package", surface.PACKAGES)
def test_what_is_public_is_there(package: str) -> None:
    """Behavior: each exported name is imported on first use and explained; no module of the package hides it."""
    module = import_module(package)
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__doc__, name
        assert not (Path(module.__file__ or "").parent / name / "__init__.py").exists() or name == "subjects"
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'chek'"):
        _ = module.chek


def test_the_core_costs_nothing_before_it_is_used() -> None:
    """Behavior: the package and its configuration load without torch, and the first use of a model imports it."""
    code = "import sys; from andon import core; core.load_config; assert 'torch' not in sys.modules; core.Llama"
    subprocess.run([sys.executable, "-c", code + "; assert 'torch' in sys.modules"], check=True)
