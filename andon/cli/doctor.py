"""`andon doctor`: what is wrong in a run's folder, and what mends it."""

import sys
from pathlib import Path

import click

from andon.log import LogError
from andon.text import clean


@click.command(epilog="Example: andon doctor reports/runs/notes")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects: where, what, mend.")
def command(run: Path, as_json: bool) -> None:
    """Examine the folder of a run, and write nothing: checkpoints, left-overs, log, spans, versions, disk.

    Each line names what is wrong, and the command that mends it. Exit codes: 0 nothing is wrong, 1 something is.
    """
    from andon.runs import examination

    if not (run / "run.lock").exists() and not (run / "config.json").exists():
        raise LogError(f"{run}: is not a run's folder; name one under reports/runs")
    found = examination.examine(run)
    if as_json:
        click.echo(examination.as_json(found))
    else:
        for each in found:
            click.echo(clean(f"{each.where}: {each.what}\n    {each.mend}"))
        click.echo(f"{clean(str(run))}: {len(found) or 'nothing'} wrong")
    sys.exit(int(bool(found)))
