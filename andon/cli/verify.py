"""`andon verify`: run the checks on anybody's model and training loop."""

import os
import shlex
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click

from andon.console import console

BAR_AFTER_SECONDS = 2.0
SEVEREST = (1, 2, 3, 0)  # of several subjects' exit codes the first of these is the command's
COLOURS = {"FOUND": "red", "CANNOT": "yellow"}
EXAMPLES = """\b
Examples:
  andon verify --list
  andon verify --explain attention.causality
  andon verify my_checks:subject
  andon verify my_checks:subject --only attention --only gradients.parameters
  andon verify my_checks:subject --ignore attention.causality --reason "a prefix model" --budget 60
"""


@click.command(epilog=EXAMPLES)
@click.argument("target", required=False, metavar="[PACKAGE.MODULE:SUBJECT]")
@click.option("--list", "listing", is_flag=True, help="Show all checks, a line each, and what each needs.")
@click.option("--explain", metavar="CHECK", help="Explain a check, with an example of what it finds.")
@click.option("--only", multiple=True, metavar="CHECK", help="Run this check, or all of an area; may be repeated.")
@click.option("--ignore", multiple=True, metavar="CHECK", help="Leave a check out; each needs a --reason.")
@click.option("--reason", "reasons", multiple=True, metavar="TEXT", help="Why, for the --ignore before it.")
@click.option("--tier", type=click.IntRange(1, 3), default=3, show_default=True, help="Leave out what takes longer.")
@click.option(
    "--budget", type=click.FloatRange(min=0), metavar="SECONDS", help="Begin and go on with no check after this long."
)
@click.option("--evidence", metavar="NAME", help="Leave the counts in reports/evidence/NAME.json, for a gate to judge.")
@click.option("--source", "sources", multiple=True, metavar="PATH", help="What that evidence is of; may be repeated.")
@click.option("--power", is_flag=True, help="Measure how much the gradient check sees: 200 plants of each fault.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the answer and what was found, no more.")
def command(
    target: str | None,
    explain: str | None,
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    reasons: tuple[str, ...],
    tier: int,
    budget: float | None,
    *,
    evidence: str | None,
    sources: tuple[str, ...],
    listing: bool,
    power: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the silent bugs in a model and its training loop.

    A subject is what you want checked: a verify.Subject, a function that returns one, or a dict of them, in a module
    that this folder or your environment can import. Exit codes: 0 nothing found, 1 found, 2 the subject cannot be
    asked, 3 not all was measured.
    """
    from andon.gates import digests
    from andon.verify.run.target import load

    if len(ignore) != len(reasons):
        raise click.UsageError(f"{len(ignore)} --ignore and {len(reasons)} --reason: each check left out needs its own")
    if listing:
        click.echo(table(), nl=False)
    elif explain:
        click.echo(explained(explain), nl=False)
    elif power:
        measure_power()
    elif target:
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a path as Python's own entries are
        options: dict[str, Any] = {
            "only": only,
            "ignore": dict(zip(ignore, reasons, strict=True)),
            "tier": tier,
            "budget": budget,
        }
        measured = digests(sources)
        reports = run(load(target), options, as_json=as_json, quiet=quiet)
        if evidence:
            keep(evidence, reports, measured)
        codes = {each.exit_code for each in reports}
        sys.exit(next((code for code in SEVEREST if code in codes), 3))
    else:
        raise click.UsageError("name a subject, package.module:subject; `andon verify --list` shows the checks")


def run(subjects: Mapping[str, Any], options: Mapping[str, Any], *, as_json: bool, quiet: bool) -> list[Any]:
    """Check each subject and print what came of it; a budget is for all of them together."""
    from andon.verify.run import report
    from andon.verify.run.runner import check

    begun, reports = time.monotonic(), []
    for name, subject in subjects.items():
        left: dict[str, Any] = {**options, "budget": _left(options["budget"], begun)}
        with bar() as progress:
            found = check(subject, **left, progress=progress)
        reports.append(replace(found, subject=name))
        if not as_json:
            paint(report.render_text(reports[-1], quiet=quiet))
    if as_json:
        click.echo(report.render_json(reports), nl=False)
    return reports


def keep(name: str, reports: Sequence[Any], digests: dict[str, str]) -> None:
    """Leave the counts as evidence."""
    from andon.gates import evidence

    seconds = sum(report.seconds for report in reports)
    counts = {
        "checks": sum(report.checked for report in reports),
        "findings": sum(len(report.findings) for report in reports),
        "not_applicable": sum(len(report.not_applicable) for report in reports),
        "notes": sum(len(report.notes) for report in reports),
        "not_finished": sum(len(report.unmeasured) for report in reports),
    }
    metrics = {key: evidence.Metric(float(count), "checks") for key, count in counts.items()}
    metrics["seconds"] = evidence.Metric(seconds, "s")
    evidence.write_evidence(evidence.Evidence(name, shlex.join(["andon", *sys.argv[1:]]), seconds, digests, metrics))


def _left(budget: float | None, begun: float) -> float | None:
    return None if budget is None else max(0.0, budget - (time.monotonic() - begun))


def measure_power() -> None:
    """Plant faults into backward passes, and print how many were found."""
    from andon.verify.gradients import power

    with bar() as progress:
        rows = power.measure(progress=progress)
    click.echo(power.render(rows), nl=False)


def paint(text: str) -> None:
    """Print a report; on a terminal its findings in colour."""
    target = console()
    for line in text.splitlines():
        target.print(line, style=COLOURS.get(line.partition(" ")[0]))


def table() -> str:
    """All checks: name, tier, what is true, and what they need beyond model, batch and loss."""
    from andon.verify.checks import CHECKS
    from andon.verify.run import runner

    lines = []
    for check in CHECKS:
        needs = f" [{', '.join(check.needs)}]" if check.needs else ""
        lines.append(f"{check.name:<28} {check.tier}  {runner.explain(check).title}{needs}")
    return "\n".join(line if len(line) <= 100 else line[:97] + "..." for line in lines) + "\n"


def explained(name: str) -> str:
    """A check's own words, its example indented as code."""
    from andon.verify.run import runner
    from andon.verify.run.report import wrap

    check = runner.named(name)
    needs = ", ".join(("model", "batch", "loss", *check.needs))
    about = runner.explain(check)
    before = [f"{check.name}: {about.title}", about.detail, about.silent, about.look]
    example = ["Example:\n" + textwrap.indent(about.example, "    ")] if about.example else []
    after = [f"Reference: {about.reference}"] if about.reference else []
    blocks = ["\n".join(wrap(part)) for part in before if part]
    blocks += [*example, *("\n".join(wrap(part)) for part in (*after, f"Needs {needs}."))]
    return "\n\n".join(blocks) + "\n"


@contextmanager
def bar() -> Generator[Callable[[int, int, str], None]]:
    """A progress bar on a terminal, which shows itself only once checking has taken BAR_AFTER_SECONDS."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    progress = Progress(*columns, console=screen, transient=True)
    task = progress.add_task("", total=None)
    timer = threading.Timer(BAR_AFTER_SECONDS, progress.start)
    timer.daemon = True
    if screen.is_terminal:
        timer.start()
    try:
        yield lambda done, total, name: progress.update(task, completed=done, total=total, description=name)
    finally:
        timer.cancel()
        if screen.is_terminal:
            timer.join()  # it may be starting the bar just now
            progress.stop()
