"""`andon trace -- COMMAND`: an unchanged script is run and recorded."""

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.cli.verify import RunContext

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = Path("reports/runs")
NOT_MEASURED = 3
EXAMPLES = """\b
Examples:
  andon trace -- python train.py --batch-size 8
  andon trace --out reports/runs/mine -- torchrun --nproc-per-node 2 train.py
  andon trace show reports/runs/demo
"""


class Trace(click.Group):
    """A group whose arguments may also be a command to record."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb `drive` before what is not a verb."""
        if "--" in args and args[0] not in self.commands:
            args = ["drive", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both forms."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] -- COMMAND...")
        formatter.write_usage(ctx.command_path, "show | top | diff | replay | links ...")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of a recording, and the other verbs."""
        drive.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.command(hidden=True, epilog=EXAMPLES)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--out", type=click.Path(path_type=Path), help="The folder, by default one of the time in reports/runs.")
@click.option("--otlp", default="", metavar="URL", help="Send the spans there, too, such as http://localhost:4318.")
def drive(words: tuple[str, ...], out: Path | None, otlp: str) -> None:
    """Run a script that trains as it is, record its steps, and say where its time went.

    Its output and its exit code stay its own; 3 where nothing was recorded: no optimizer of torch was made.
    """
    from andon.door.watched_command import Limits, launch
    from andon.tracing.endpoint import endpoint

    if shutil.which(words[0]) is None:
        raise click.UsageError(f"there is no program {words[0]!r} on the path")
    if otlp:
        endpoint(otlp)  # what cannot be used is refused before the run
    folder = out or RUNS / f"trace-{time.strftime('%Y%m%d-%H%M%S')}"
    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"--out {folder}: is not empty; name another folder")
    outcome = launch(words, Limits(trace=str(folder.resolve()), otlp=otlp))
    said = list(verdicts(folder))
    click.echo("\n".join(said or [not_recorded(words)]), err=True)
    code = outcome.returncode if outcome.returncode >= 0 else 128 - outcome.returncode
    sys.exit(code or (0 if said else NOT_MEASURED))


drive.context_class = RunContext


def verdicts(folder: Path) -> "Iterator[str]":
    """Of each process that recorded: where its time went."""
    from andon.tracing.analysis.run import analyze

    for path in sorted(folder.rglob("trace*.jsonl")):
        verdict = analyze(path).verdict()
        if verdict:
            yield f"{path}: {verdict.steps:,} steps, {verdict.seconds:,.3g} s"
            yield f"where the time went: {verdict.sentence()}"


def not_recorded(words: tuple[str, ...]) -> str:
    """Why there is no step, and what to do."""
    return (
        f"not recorded: no Python process of `{' '.join(words)}` took a step of a torch.optim optimizer; name the "
        "command that trains, such as `andon trace -- python train.py` (Python's options -I and -E hide us)"
    )
