"""`andon verify`: run the checks on anybody's model and training loop; list them, explain one."""

import os
import shlex
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

import click

from andon.cli import door
from andon.cli.bar import bar
from andon.console import console

if TYPE_CHECKING:
    from andon.verify.checks import Check
    from andon.verify.run.docstring import Line
    from andon.verify.run.report import Report
    from andon.verify.subject import Subject

SEVEREST = (1, 2, 3, 0)  # of several subjects' exit codes the first of these is the command's
COLORS = {"RED": "red", "YELLOW": "yellow", "ERROR": "magenta"}
NAMES, TIERS, LIGHTS = 30, 6, 12  # columns of a check's name, of its tier and of its lights in a list
EXAMPLES = """\b
Examples:
  andon verify -- python train.py --batch-size 8
  andon verify my_checks:subject
  andon verify my_checks:subject --only attention --only gradients.parameters
  andon verify 'my_checks:SUBJECTS[small]' --tier 1
  andon verify my_checks:subject --ignore attention.causality --reason "a prefix model" --budget 60
  andon verify list attention
  andon verify explain attention.causality
"""


class Options(TypedDict):
    """What of `check` the command line sets."""

    only: tuple[str, ...]
    ignore: dict[str, str]
    tier: int
    budget: float | None
    strict: bool


class RunContext(click.Context):
    """A run's name in usage and errors is the group's: nobody types the verb `run`."""

    @property
    def command_path(self) -> str:
        """As the group's."""
        return self.parent.command_path if self.parent else super().command_path


class Verify(click.Group):
    """A group whose first argument may also be a subject: then its checks are run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb `run` before what is not a verb."""
        if not (args and (args[0] in self.commands or args[0] in ctx.help_option_names)):
            args = ["drive" if "--" in args else "run", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """All forms."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] -- COMMAND...")
        formatter.write_usage(ctx.command_path, "[OPTIONS] PACKAGE.MODULE:SUBJECT")
        formatter.write_usage(ctx.command_path, "list [AREA] | explain CHECK | power")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options of a run, and the other verbs."""
        run.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


@click.group(cls=Verify, epilog=EXAMPLES)
def command() -> None:
    """Find the silent bugs in a model and its training loop.

    A COMMAND that trains is run as it is and watched, with nothing to write: `andon verify drive --help` tells more. A
    subject is what else you want checked: a verify.Subject, a function that returns one, or a dict of them, in a module
    that this folder or your environment can import; MODULE:DICT[KEY] is one of a dict. A finding is red where it is
    wrong in any training code, and yellow where it is right only if its author meant it: --ignore it with the reason,
    then. Exit codes: 0 nothing red, 1 red (with --strict, or yellow), 2 the subject could not be run, 3 not all was
    measured.
    """


@command.command(hidden=True, epilog="Example: andon verify my_checks:subject")
@click.argument("target", required=False, metavar="PACKAGE.MODULE:SUBJECT")
@click.option("--only", multiple=True, metavar="CHECK", help="Run this check, or all of an area; may be repeated.")
@click.option("--ignore", multiple=True, metavar="CHECK", help="Leave out a check or an area; each needs a --reason.")
@click.option("--reason", "reasons", multiple=True, metavar="TEXT", help="Why, for the --ignore before it.")
@click.option(
    "--tier",
    type=click.IntRange(1, 3),
    default=3,
    show_default=True,
    help="Run checks up to this tier: 1 takes milliseconds per check, 2 seconds, 3 longer.",
)
@click.option("--budget", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop checking after this long.")
@click.option("--strict", is_flag=True, help="Yellow findings make the exit code 1, as red ones do.")
@click.option("--evidence", metavar="NAME", help="Write the counts to reports/evidence/NAME.json, for a gate to judge.")
@click.option("--source", "sources", multiple=True, metavar="PATH", help="What that evidence is of; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print the answer and what was found, no more.")
def run(
    target: str | None,
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    reasons: tuple[str, ...],
    tier: int,
    budget: float | None,
    *,
    strict: bool,
    evidence: str | None,
    sources: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the checks on a subject."""
    if not target:
        raise click.UsageError("name a subject, package.module:subject; `andon verify list` shows the checks")
    if len(ignore) != len(reasons):
        raise click.UsageError(f"{len(ignore)} --ignore and {len(reasons)} --reason: each check left out needs its own")
    from andon.gates import digests
    from andon.verify.run.target import load

    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a path as Python's own entries are
    options = Options(
        only=only, ignore=dict(zip(ignore, reasons, strict=True)), tier=tier, budget=budget, strict=strict
    )
    measured = digests(sources)
    reports = run_each(load(target), options, as_json=as_json, quiet=quiet)
    if evidence:
        keep(evidence, reports, measured)
    codes = {each.exit_code for each in reports}
    sys.exit(next((code for code in SEVEREST if code in codes), 3))


run.context_class = RunContext
command.add_command(door.verify, "drive")
door.verify.context_class = RunContext


@command.command("list", epilog="Example: andon verify list attention")
@click.argument("area", required=False)
def list_checks(area: str | None) -> None:
    """List the checks, or an area's."""
    from andon.verify.run.selection import chosen

    found = chosen([area] if area else [])
    heading = f"{'check':<{NAMES}}{'tier':<{TIERS}}{'turns':<{LIGHTS}}what is true of any correct implementation\n"
    needs = fields({need for check in found for need in check.needs})
    click.echo("".join([heading, *map(row, found), *needs]), nl=False)


@command.command(epilog="Example: andon verify explain attention.causality")
@click.argument("check")
def explain(check: str) -> None:
    """Explain a check, with an example of what it finds."""
    click.echo(explained(check), nl=False)


@command.command(epilog="Example: andon verify power")
def power() -> None:
    """Measure which wrong gradients are found (minutes)."""
    from andon.verify.gradients import power as gradient_power

    with bar() as progress:
        rows = gradient_power.measure(progress=progress)
    click.echo(gradient_power.render(rows), nl=False)


def run_each(subjects: "Mapping[str, Subject]", options: Options, *, as_json: bool, quiet: bool) -> "list[Report]":
    """Check each subject and print what came of it; a budget is for all of them together."""
    from andon.verify.run import report
    from andon.verify.run.runner import check

    begun, reports = time.monotonic(), []
    for name, subject in subjects.items():
        left = Options(**{**options, "budget": _left(options["budget"], begun)})
        with bar() as progress:
            found = check(subject, **left, progress=progress)
        reports.append(replace(found, subject=name))
        if not as_json:
            paint(report.render_text(reports[-1], quiet=quiet))
    if as_json:
        click.echo(report.render_json(reports), nl=False)
    return reports


def keep(name: str, reports: "Sequence[Report]", digests: dict[str, str]) -> None:
    """Leave the counts as evidence."""
    from andon.gates import evidence

    seconds = sum(report.seconds for report in reports)
    counts = {
        "checks": sum(report.checked for report in reports),
        "findings": sum(len(report.findings) for report in reports),
        "red": sum(len(report.findings) - len(report.yellow) for report in reports),  # what could not be run as well
        "yellow": sum(len(report.yellow) for report in reports),
        "not_applicable": sum(len(report.not_applicable) for report in reports),
        "notes": sum(len(report.notes) for report in reports),
        "not_finished": sum(len(report.unmeasured) for report in reports),
    }
    metrics = {key: evidence.Metric(float(count), "checks") for key, count in counts.items()}
    metrics["seconds"] = evidence.Metric(seconds, "s")
    evidence.write_evidence(evidence.Evidence(name, shlex.join(["andon", *sys.argv[1:]]), seconds, digests, metrics))


def _left(budget: float | None, begun: float) -> float | None:
    return None if budget is None else max(0.0, budget - (time.monotonic() - begun))


def paint(text: str) -> None:
    """Print a report; on a terminal its findings in color."""
    target = console()
    for line in text.splitlines():
        target.print(line, style=COLORS.get(line.partition(" ")[0]))


def row(check: "Check") -> str:
    """A check in a list: its name, its tier, its lights, what is true of any correct implementation, what it needs."""
    from andon.verify.run import docstring
    from andon.verify.run.report import wrap

    needs = f" Needs {', '.join(check.needs)}." if check.needs else ""
    lights, width = "/".join(docstring.lights(check)), NAMES + TIERS + LIGHTS
    lines = wrap(f"{docstring.explain(check).title}{needs}", width)
    heads = [f"{check.name:<{NAMES}}{check.tier:<{TIERS}}{lights:<{LIGHTS}}", *[" " * width] * (len(lines) - 1)]
    return "".join(f"{head}{line}\n" for head, line in zip(heads, lines, strict=True))


def fields(names: set[str]) -> list[str]:
    """What these fields of a subject are, as lines; a heading before them where there are any."""
    from andon.verify.run.report import wrap
    from andon.verify.subject import documented

    lines = ["\nFields of verify.Subject that they need, beyond model, batch and loss:\n"] if names else []
    for each in documented():
        if each.name in names:
            lines += [f"  {each.heading}\n", *(f"      {line}\n" for line in wrap(each.what, 6))]
    return lines


def explained(name: str) -> str:
    """A check's own words, or those of a statement about a script as it is."""
    from andon.door.lines import ASKED, LINES
    from andon.verify.run import selection
    from andon.verify.run.reads import as_sentence

    lines = {each.name: each for each in LINES}
    if name in lines:
        return in_words(lines[name], ASKED)
    check = selection.named(name, beside=lines)
    needs = f"Needs {', '.join(('model', 'batch', 'loss', *check.needs))}."
    return in_words(check, f"{needs} {as_sentence(check)}".rstrip())


def in_words(line: "Line", asked: str) -> str:
    """A docstring for a terminal, its example indented as code; when it is asked, and what it turns, at the end."""
    from andon.verify.run import docstring
    from andon.verify.run.report import wrap

    about = docstring.explain(line)
    before = [f"{line.name}: {about.title}", about.detail, about.silent, about.look, about.yellow]
    example = ["Example:\n" + textwrap.indent(about.example, "    ")] if about.example else []
    after = [f"Reference: {about.reference}"] if about.reference else []
    after += [f"{asked} Turns {' or '.join(docstring.lights(line))}."]
    blocks = ["\n".join(wrap(part)) for part in before if part]
    return "\n\n".join([*blocks, *example, *("\n".join(wrap(part)) for part in after)]) + "\n"
