"""`andon zoo`: every model, adapter or optimizer of an installed library through the checks."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.cli.verify import paint

if TYPE_CHECKING:
    from andon.verify.zoo.sweep import Row

FOLDER = Path("reports/zoo")
EXAMPLES = """\b
Examples:
  andon zoo transformers
  andon zoo transformers --only 'qwen*' --only gpt2
  andon zoo peft --resume
  andon zoo my_project.my_zoo --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("library", default="transformers")
@click.option("--only", multiple=True, metavar="PATTERN", help="Names such as 'qwen*'; may be repeated.")
@click.option("--limit", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Seconds of each.")
@click.option("--tier", type=click.IntRange(1, 3), default=2, show_default=True, help="Leave out what takes longer.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Processes at a time.")
@click.option("--resume", is_flag=True, help="Keep what an earlier sweep of this release has.")
@click.option("--list", "listing", is_flag=True, help="Print the names, and check nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON lines.")
def command(
    library: str,
    only: tuple[str, ...],
    limit: float,
    tier: int,
    workers: int,
    *,
    resume: bool,
    listing: bool,
    as_json: bool,
) -> None:
    """Sweep an installed library: transformers, peft or bitsandbytes.

    Each model is built at its smallest size and checked in a process of its own. Rows, and a script for each red or
    yellow cell, are kept in reports/zoo. A module of your own with PACKAGE, CHECKS, names(), subject(name) and
    preamble(name) can also be swept. Exit codes: 0 nothing red, 1 red, 3 nothing could be built.
    """
    sys.path.insert(0, str(Path.cwd()))
    from andon.verify.zoo import sweep

    names = sweep.chosen(library, only)
    if listing:
        click.echo("\n".join(names))
        return
    if not names:
        raise click.UsageError(f"{library} has nothing that matches {', '.join(only)}; `--list` shows the names")
    folder = FOLDER / sweep.release(library)
    file = folder / "rows.jsonl"
    if not resume:
        file.unlink(missing_ok=True)
    rows = {row.name: row for row in sweep.read(file) if row.name in names}
    todo = [name for name in names if name not in rows]
    for done, row in enumerate(sweep.sweep(library, todo, limit=limit, workers=workers, tier=tier), start=1):
        sweep.write(file, row)
        rows[row.name] = row
        outcome = row.reason or ", ".join(row.found) or "nothing found"
        click.echo(f"{done}/{len(todo)} {row.name} ({row.seconds:.1f} s): {' '.join(outcome.split())[:110]}", err=True)
    ordered = [rows[name] for name in names]
    show(ordered, folder, as_json=as_json)
    sys.exit(1 if any(row.red for row in ordered) else 0 if any(not row.reason for row in ordered) else 3)


def show(rows: "list[Row]", folder: Path, *, as_json: bool) -> None:
    """Print the table, and of each red or yellow cell its numbers and the script that shows it."""
    from andon.verify.zoo import sweep

    if as_json:
        click.echo("\n".join(json.dumps(sweep.as_json(row)) for row in rows))
        return
    click.echo(sweep.table(rows))
    for row in rows:
        for check, cell in row.found.items():
            script = folder / "scripts" / f"{row.name.replace('/', '-')}-{check}.py"
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(cell.script, encoding="utf-8")
            paint(f"\n{cell.state.upper()} {row.name}: {check}: {cell.message}\n{script}\n{cell.script}")
    click.echo(f"\n{sweep.summary(rows)}")
