"""`andon trace top`: functions and modules of a run's profiled steps by self time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.files import write_whole

if TYPE_CHECKING:
    from andon.tracing.analysis.functions import Row, Top


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("-n", "--lines", type=click.IntRange(min=1), default=15, show_default=True, help="Of each table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all functions and modules.")
@click.option(
    "--speedscope", type=click.Path(path_type=Path), metavar="FILE", help="Write the calls for speedscope.app."
)
def top(run: Path, lines: int, as_json: bool, speedscope: Path | None) -> None:
    """Say which functions and modules took the time of RUN's profiled steps, each with its line.

    RUN is the folder of a run with --profile, or one of its profiles. What is built in, torch's operators among it,
    counts for the function that called it.

    \b
    Examples:
      andon trace top reports/runs/profiled
      andon trace top reports/runs/profiled --speedscope steps.speedscope.json
    """
    from andon.tracing.analysis import functions

    paths = functions.profiles_of(run)
    found = functions.top(paths)
    if speedscope:
        write_whole(speedscope, json.dumps(functions.speedscope(paths)))
    click.echo(json.dumps(as_object(found)) if as_json else "\n".join(table(found, lines)))


def as_object(found: "Top") -> dict[str, object]:
    """For a program."""
    rows = {"functions": found.functions, "modules": found.modules}
    return {"steps": found.steps, "seconds": found.seconds} | {
        kind: [each._asdict() for each in own] for kind, own in rows.items()
    }


def table(found: "Top", lines: int) -> list[str]:
    """For a reader."""
    head = f"{found.steps} profiled steps of {1e3 * found.seconds:,.1f} ms, slower than others"
    return [head, "", *_part("function", found.functions[:lines]), "", *_part("module", found.modules[:lines])]


def _part(kind: str, rows: "list[Row]") -> list[str]:
    return [
        f"{'of the step':>11}{'ms a step':>12}{'calls':>9}  {kind}, by its own time",
        *(
            f"{each.share:>11.1%}{1e3 * each.seconds:>12.3f}{each.calls:>9,.1f}  {each.name}"
            + (f"  {each.source}" if each.source else "")
            for each in rows
        ),
    ]
