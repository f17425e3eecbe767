"""`andon trace diff`: two recorded runs side by side."""

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from andon.tracing.analysis.diff import Row, Run
    from andon.tracing.analysis.steps import Step


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--slower", default="5%", help="Of a phase's processor time: what B may take more than A.")
@click.option(
    "--pair",
    type=click.IntRange(min=3),
    metavar="TIMES",
    help="A and B are commands that train: run and record them in turn, so often each, and judge by the clock.",
)
@click.pass_context
def diff(context: click.Context, a: str, b: str, slower: str, pair: int | None) -> None:
    """Compare the steps of two runs A and B (folders, or traces), phase by phase, in processor time and by the clock.

    The clock's times of two runs compare the machine's other work, too: the judgement is on processor time. With --pair
    both are run in turn, which alone makes the clock's times comparable: then the judgement is on these.
    Exit codes: 0 not slower, 1 a phase that is a tenth of the step or more takes longer than --slower allows,
    3 not comparable, as configuration, threads, torch or machine differ, or not enough steps.

    \b
    Examples:
      andon trace diff reports/runs/demo reports/runs/notes
      andon trace diff reports/runs/demo reports/runs/notes --slower 10%
      andon trace diff --pair 5 'python train.py' 'python train.py --fused'
    """
    from andon.tracing.analysis import diff as comparison

    bound = _share(slower)
    if pair:
        found = comparison.paired_rows(in_turn(a, b, pair), bound)
        least = f"{2 * comparison.BLOCK} steps are needed of each run"
    else:
        found = comparison.rows(*_recorded(context, Path(a), Path(b)), bound)
        blocks = comparison.BLOCK * (comparison.LEAST_BLOCKS + 1)
        least = f"{blocks} steps are needed of each run, in blocks of {comparison.BLOCK}"
    if not found:
        click.echo(f"not measured: {least}")
        context.exit(3)
    click.echo("\n".join(table(found)))
    slow = [row for row in found if row.slower]
    said = ", ".join(f"{row.name} by {(row.wall if pair else row.cpu).times - 1:.1%}" for row in slow)
    click.echo(f"slower than {bound:.0%} allows: {said}" if slow else f"nothing is slower by more than {bound:.0%}")
    context.exit(1 if slow else 0)


def _recorded(context: click.Context, a: Path, b: Path) -> "tuple[Sequence[Step], Sequence[Step]]":
    """The steps of two runs; exits where they are not comparable."""
    from andon.tracing.analysis import diff as comparison

    for path in (a, b):
        if not path.exists():
            raise click.UsageError(f"{path}: no such run; name a folder or a trace, or two commands with --pair TIMES")
    runs = [_run(path) for path in (a, b)]
    different = comparison.differences(*(run.attributes for run in runs))
    different += _machines(a, b)
    if different:
        click.echo("not comparable: " + "; ".join(different))
        context.exit(3)
    return runs[0].steps, runs[1].steps


def in_turn(a: str, b: str, times: int) -> "list[tuple[Sequence[Step], Sequence[Step]]]":
    """The steps of two commands, run A B, B A, A B and so on: what drifts meanwhile is on both sides."""
    pairs = []
    for number in range(times):
        found = {each: _run_of((a, b)[each]).steps for each in ((0, 1), (1, 0))[number % 2]}
        pairs.append((found[0], found[1]))
    return pairs


def _run_of(command: str) -> "Run":
    """Run a command, and read what was recorded of it."""
    from andon.door.watched_command import Limits, launch

    words = shlex.split(command)
    if not words or shutil.which(words[0]) is None:
        raise click.UsageError(f"{command!r}: there is no such program on the path; with --pair, A and B are commands")
    with tempfile.TemporaryDirectory(prefix="andon-") as folder:
        outcome = launch(words, Limits(trace=folder), quiet_stdout=True)
        if outcome.returncode:
            raise click.ClickException(f"{command!r} ended with exit code {outcome.returncode}: nothing is compared")
        trace = Path(folder) / "trace.jsonl"
        if not trace.exists():
            raise click.ClickException(f"{command!r}: no optimizer of torch was made; name commands that train")
        return _run(trace)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share < 10:
        raise click.UsageError(f"--slower={text}: name a percentage such as 5%")
    return share


def _run(path: Path) -> "Run":
    from andon.tracing.analysis.diff import Run
    from andon.tracing.analysis.steps import read_windows
    from andon.tracing.read import files_of

    attributes, steps = {}, []
    for start, window in read_windows(files_of(path)[0], {}):
        attributes = attributes if start is None else start
        steps += window
    return Run(attributes, steps)


def _machines(a: Path, b: Path) -> list[str]:
    """The processors, which `result.json` beside a trace names, where they differ."""
    from andon.report.page import read_object

    names = [read_object((path if path.is_dir() else path.parent) / "result.json").get("processor") for path in (a, b)]
    return [] if names[0] == names[1] else [f"machine: {names[0] or 'not recorded'} and {names[1] or 'not recorded'}"]


def table(rows: "list[Row]") -> list[str]:
    """Phases with both ratios and their intervals of 95%."""
    lines = [f"{'':<12}{'of the step':>12}{'processor time, B over A':>30}{'by the clock':>26}"]
    for row in rows:
        cpu, wall = (f"{each.times:.3f} ({each.low:.3f} to {each.high:.3f})" for each in (row.cpu, row.wall))
        lines.append(f"{row.name:<12}{row.share:>12.0%}{cpu:>30}{wall:>26}{'  slower' if row.slower else ''}")
    return lines
