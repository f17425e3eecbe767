"""`andon init`: gates for your own project: a minimal `andon.toml` and a noxfile."""

from pathlib import Path

import click

NO_PACKAGES = ("tests", "test", "docs", "build", "dist", "reports")
HEAD = """\
# What each tier runs, and its thresholds: `andon gate run tier1`, `andon gate list`, `andon gate explain CHECK`.
# A measure is any command. Its exit code is judged, and so are the metrics that it writes to reports/evidence.

# Evidence is stale once one of these has changed.
sources = [{sources}]

[[tiers]]
name = "tier1"
summary = "on every save"
strict = false # what could not be measured is reported, and is red only from tier 2 up

[[tiers]]
name = "tier2"
summary = "before a push"
includes = "tier1"

[[measures]]
name = "syntax"
tier = "tier1"
lane = "static"
command = "python -m compileall -q -f {packages}"
next = "fix the line that it names"
"""
TESTS = """
[[measures]]
name = "tests"
tier = "tier1"
lane = "tests"
command = "python -m pytest -q"
next = "run the failing test alone: `python -m pytest PATH::NAME`"

[[measures]]
name = "coverage"
tier = "tier2"
lane = "tests"
supersedes = ["tests"] # runs the same tests again, under coverage
command = "python -m andon.gates.measures.coverage --branch --source={sources} -m pytest -q"
next = "`coverage report -m` shows the lines that no test runs"

[[thresholds]]
metric = "coverage.lines"
operator = ">="
value = 80
tier = "tier2"
why = "a bug in a line that no test runs goes unnoticed"
"""
SESSIONS = '''\
"""The tiers of andon.toml as sessions: `nox -s tier1`."""

import nox


@nox.session(venv_backend="none")
def tier1(session: nox.Session) -> None:
    """On every save."""
    session.run("andon", "gate", "run", "tier1", *session.posargs, external=True)


@nox.session(venv_backend="none")
def tier2(session: nox.Session) -> None:
    """Before a push."""
    session.run("andon", "gate", "run", "tier2", *session.posargs, external=True)
'''


@click.command(
    epilog="""\b
Examples:
  andon init
  andon init .
"""
)
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
def command(root: Path) -> None:
    """Write andon.toml and noxfile.py for the project in ROOT (default: here); nothing is overwritten.

    Packages are folders with an __init__.py, in ROOT or ROOT/src. Beside an existing noxfile, its lines are printed.
    """
    config, noxfile = root / "andon.toml", root / "noxfile.py"
    if config.exists():
        raise click.UsageError(f"{config} already exists; change it by hand, or move it away first")
    packages = find_packages(root)
    if not packages:
        raise click.UsageError(
            f"no package in {root} or {root / 'src'}: make a folder with __init__.py, or run in the project's root"
        )
    config.write_text(configuration(root, packages), encoding="utf-8")
    click.echo(f"{config}: {', '.join(packages)}{', with tests' if (root / 'tests').is_dir() else '; tests not found'}")
    if noxfile.exists():
        click.echo(f"{noxfile} already exists; add these lines to make the tiers sessions:\n\n{SESSIONS}", nl=False)
    else:
        noxfile.write_text(SESSIONS, encoding="utf-8")
        click.echo(f"{noxfile}: tier1, tier2")
    click.echo("next: andon gate run tier1")


def find_packages(root: Path) -> list[str]:
    """The packages of a project, and its modules where it has none, as paths from its root."""
    for folder in (root, root / "src"):
        found = sorted(path.parent for path in folder.glob("*/__init__.py") if path.parent.name not in NO_PACKAGES)
        modules = sorted(
            path for path in folder.glob("*.py") if path.name not in ("setup.py", "noxfile.py", "conftest.py")
        )
        if found or modules:
            return [path.relative_to(root).as_posix() for path in found or modules]
    return []


def configuration(root: Path, packages: list[str]) -> str:
    """The gates file for these packages."""
    extra = [name for name in ("tests", "pyproject.toml") if (root / name).exists()]
    text = HEAD.format(sources=", ".join(f'"{name}"' for name in [*packages, *extra]), packages=" ".join(packages))
    if not (root / "tests").is_dir():
        return text
    importable = sorted({str(Path(name).parent) if name.endswith(".py") else name for name in packages})
    return text + TESTS.format(sources=",".join(importable))
