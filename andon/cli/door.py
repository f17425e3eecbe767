"""`andon verify -- COMMAND` and `andon watch -- COMMAND`: an unchanged script is run, watched and judged."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from andon.door.watched_command import BUDGET, Limits, launch

NOT_FOUND, STARTED = 127, 126


@click.command(
    hidden=True,
    context_settings={"ignore_unknown_options": False},
    epilog="""\b
Examples:
  andon verify -- python train.py --batch-size 8
  andon verify --in-copy -- python -m package.train
  andon verify --write my_checks.py -- python train.py
  andon verify --resume-command 'python train.py --resume' -- python train.py
  andon verify --steps 50 --json -- torchrun --nproc-per-node 2 train.py
""",
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="End the script after this many steps.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    default=BUDGET,
    show_default=True,
    metavar="SECONDS",
    help="End the script after so much CPU time, and at least 20 steps.",
)
@click.option("--in-copy", is_flag=True, help="Run it in a copy of this folder: what it writes is thrown away.")
@click.option("--watch-only", is_flag=True, help="Do not capture a subject: judge by what is seen alone.")
@click.option("--ignore", multiple=True, metavar="CHECK", help="Leave out a finding; each needs a --reason.")
@click.option("--reason", "reasons", multiple=True, metavar="TEXT", help="Why, for the --ignore before it.")
@click.option(
    "--write",
    "output",
    type=click.Path(path_type=Path),
    metavar="FILE.py",
    help="Write what was captured as code to go on from, for `andon verify FILE:subject`; FILE.py must not exist.",
)
@click.option(
    "--resume-command",
    metavar="TEXT",
    help="Stop a second run after its first save, resume it by this command, and hold it to the first; in copies.",
)
@click.option("--strict", is_flag=True, help="Yellow findings make the exit code 1, as red ones do.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON; the script's output goes to stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Print the answer and what was found, no more.")
def verify(
    words: tuple[str, ...],
    steps: int | None,
    budget: float,
    ignore: tuple[str, ...],
    reasons: tuple[str, ...],
    output: Path | None,
    resume_command: str | None,
    *,
    in_copy: bool,
    watch_only: bool,
    strict: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a script that trains as it is, watch it, and judge it.

    Its output and its exit code stay its own; what is found is printed to stderr at the end. Exit codes: 0 nothing
    red, 1 red (with --strict, or yellow), 3 not measured, and the command's own where it fails.
    """
    if len(ignore) != len(reasons):
        raise click.UsageError(f"{len(ignore)} --ignore and {len(reasons)} --reason: each check left out needs its own")
    if output and watch_only:
        raise click.UsageError(
            "--write writes what is captured, and --watch-only captures nothing: leave one of them out"
        )
    resume = shlex.split(resume_command or "")
    if resume_command is not None and not resume:
        raise click.UsageError("--resume-command is empty: say how a run is resumed, 'python train.py --resume'")
    limits = Limits(steps, budget, checks=not watch_only, trail=bool(resume))
    shown = {"strict": strict, "as_json": as_json, "quiet": quiet}
    drive(words, limits, in_copy=in_copy, ignore=ignore, written=output, resume=resume, **shown)


def drive(
    words: Sequence[str],
    limits: Limits,
    *,
    in_copy: bool = False,
    strict: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    ignore: Sequence[str] = (),
    written: Path | None = None,
    resume: Sequence[str] = (),
) -> None:
    """Run a command, print what came of it, write what was captured where that is wanted, and exit."""
    from andon.door.answer import answer
    from andon.door.continuation import CONTINUATION
    from andon.door.resume_command import continued
    from andon.door.written import refused, write

    if written and (reason := refused(written)):
        raise click.UsageError(f"--write: {reason}")
    for program in (words[0], *resume[:1]):
        if shutil.which(program) is None:
            raise click.UsageError(f"there is no program {program!r} on the path")
    outcome = launch(words, limits, in_copy=in_copy or bool(resume), quiet_stdout=as_json)
    if resume and not outcome.returncode:
        outcome = replace(outcome, results=[*outcome.results, continued(words, resume, limits, outcome)])
    said = answer(words, outcome, strict=strict, ignore=ignore)
    said = replace(said, not_resumed=said.report.not_applicable.get(CONTINUATION.name, "") if resume else "")
    if written:
        said = replace(said, writing=write(written, shlex.join(words), outcome.results))
    if as_json:
        click.echo(said.as_json(), nl=False)
    else:
        click.echo(said.as_text(quiet=quiet), nl=False, err=True)
    sys.exit(said.exit_code)


@click.command(
    epilog="""\b
Examples:
  andon watch -- python train.py
  andon watch -- torchrun --nproc-per-node 2 train.py
"""
)
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("--strict", is_flag=True, help="Yellow findings make the exit code 1, as red ones do.")
@click.option("-q", "--quiet", is_flag=True, help="Print the answer and what was found, no more.")
def watch(words: tuple[str, ...], *, strict: bool, quiet: bool) -> None:
    """Run a script that trains to its end, and say what is found in the step that shows it, on stderr.

    Nothing is captured and nothing is asked: the invariants of `verify.watch` alone, and at the end what the whole run
    shows. Exit codes are those of `andon verify -- COMMAND`.
    """
    drive(words, Limits(whole=True, checks=False, live=True), strict=strict, quiet=quiet)
