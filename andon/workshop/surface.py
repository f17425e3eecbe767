"""The public surface against the committed file: `andon dev surface`, `--write` to accept it."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
from pydantic import BaseModel

PACKAGES = ("andon.core", "andon.gates", "andon.tracing", "andon.verify")
SOURCES = ("andon",)
KINDS = {"name": "names", "option": "options", "key": "keys"}


def options(command: click.Command, path: str = "andon") -> Iterator[str]:
    """Each verb with its arguments and options, as a shell's user types them."""
    yield f"option {path}"
    for parameter in command.params:
        names = "/".join([*parameter.opts, *parameter.secondary_opts])
        optional = isinstance(parameter, click.Option)
        choices = f" {'|'.join(parameter.type.choices)}" if isinstance(parameter.type, click.Choice) else ""
        yield f"option {path} {names if optional else names.upper()}{choices}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner:
                yield from options(inner, f"{path} {name}")


def keys(model: type[BaseModel], path: str) -> Iterator[str]:
    """Each key of a TOML file, by the tables that it stands in."""
    for name, field in model.model_fields.items():
        yield f"key {path}.{name}{'' if field.is_required() else '='}"
        for each in _models(field.annotation):
            yield from keys(each, f"{path}.{name}")


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The tables that a key's type speaks of, such as those of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def surface(root: click.Command) -> list[str]:
    """All lines, sorted; `root` is the whole command line."""
    from andon.core import config
    from andon.gates import config as gates
    from andon.gates.measures.surface import public_names

    tables = {
        "run.toml": config.Config,
        "gates.toml": gates.Gates,
        "faults.toml": gates.InjectedFaults,
        "claims.toml": gates.Claims,
    }
    found = {line for path, model in tables.items() for line in keys(model, path)}
    return sorted(found | set(public_names(PACKAGES)) | set(options(root)))


EXAMPLES = """\b
Examples:
  andon dev surface
  andon dev surface --write
"""


@click.command(epilog=EXAMPLES)
@click.option("--write", is_flag=True, help="Accept: write today's surface to the committed file.")
def command(*, write: bool) -> None:
    """Compare public names, options and keys with the committed file; exit code 1 where they differ."""
    from andon import gates
    from andon.gates.measures import surface as compare

    if not all(Path(*package.split("."), "__init__.py").is_file() for package in PACKAGES):
        raise compare.SurfaceError(f"{Path.cwd()} is no checkout of Andon: run `andon dev surface` in the root of one")
    begun = time.perf_counter()
    baseline: Path = compare.BASELINE
    sources, today = gates.digests([*SOURCES, str(baseline)]), surface(click.get_current_context().find_root().command)
    if write:
        baseline.write_text("\n".join(today) + "\n", encoding="utf-8")
        sources = gates.digests([*SOURCES, str(baseline)])
    recorded = baseline.read_text(encoding="utf-8").splitlines() if baseline.exists() else []
    changed = compare.changes(recorded, today)
    click.echo("".join(f"{line}\n" for line in changed), nl=False)
    metrics = {"changed": gates.Metric(len(changed), "lines")}
    metrics |= {name: gates.Metric(sum(line.startswith(f"{kind} ") for line in today)) for kind, name in KINDS.items()}
    gates.write_evidence(gates.Evidence("surface", "andon dev surface", time.perf_counter() - begun, sources, metrics))
    click.echo(f"{len(today)} lines of public surface, {len(changed)} differ from {baseline}")
    if changed:
        click.echo("next: nox -s measure -- surface --write, and say in CHANGELOG.md what users must write instead")
        sys.exit(1)
