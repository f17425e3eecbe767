"""`andon dev faults`: inject known bugs around your subject, one at a time, and see which check finds each."""

import hashlib
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from andon.console import console
from andon.gates import commits
from andon.verify.faults.rows import ABSENT, ERROR, FOUND, UNFOUND, Row, as_json
from andon.workshop import matrix

if TYPE_CHECKING:
    from andon.verify.faults.generic import GenericFault
    from andon.verify.faults.inject import Fault

SHARE = 0.7  # of a sample's seconds in which faults are injected; the rest is for runs without the fault
LINE_EVERY_SECONDS = 10.0
EXAMPLES = """\b
Examples:
  andon dev faults my_checks:subject
  andon dev faults my_checks:subject --only gradients --all
"""
OPTIONS = (
    click.option(
        "--all", "every", is_flag=True, help="Run every check on every fault; else stop at the first finding."
    ),
    click.option(
        "--only", multiple=True, metavar="FAULT", help="A fault, an area, or how its name begins; repeatable."
    ),
    click.option(
        "--sample",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="As many faults as fit, chosen by the commit.",
    ),
    click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Faults at a time."),
    click.option(
        "--limit", type=float, default=90.0, show_default=True, help="Seconds after which a fault is given up."
    ),
    click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Also draw the matrix as a picture."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON only."),
    click.option("-q", "--quiet", is_flag=True, help="Print only the faults that were not found, and the counts."),
)
AnyFault = TypeVar("AnyFault", "Fault", "GenericFault")


class FaultsError(ValueError):
    """Faults that cannot be injected here; the message says what is missing and the next step."""


class Options(NamedTuple):
    """The options of a command that injects faults."""

    every: bool
    only: tuple[str, ...]
    sample: float | None
    workers: int
    limit: float
    html: Path | None
    as_json: bool
    quiet: bool


def fault_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


@click.command(epilog=EXAMPLES)
@click.argument("target", metavar="PACKAGE.MODULE:SUBJECT")
@fault_options
def command(target: str, **options: Any) -> None:
    """Inject known bugs around your subject, one at a time, and print which check finds each.

    This measures the checks on your own code: a fault fits any subject that has the part it changes. Exit codes: 0 all
    found, 1 some were not, 2 usage.
    """
    from andon.verify.faults.generic import GENERIC_FAULTS

    sys.path.insert(0, str(Path.cwd()))
    given = Options(**options)
    begun = time.monotonic()
    rows = evaluated(target, chosen(GENERIC_FAULTS, given.only), given)
    show(rows, target, given, seconds=time.monotonic() - begun)
    sys.exit(has_failed(rows))


def chosen(faults: Sequence[AnyFault], only: Sequence[str]) -> list[AnyFault]:
    """The faults that `only` names; all where it is empty.

    Raises:
        FaultsError: it names none.
    """
    areas = dict.fromkeys(fault.area for fault in faults)
    picked = [
        fault
        for fault in faults
        if not only or any(fault.area == word if word in areas else fault.id.startswith(word) for word in only)
    ]
    if not picked:
        raise FaultsError(f"--only {' '.join(only)} does not name a fault; areas are {', '.join(areas)}")
    return picked


def shuffled(faults: Sequence[AnyFault]) -> list[AnyFault]:
    """In an order that the commit decides, so that samples go through all of them."""
    commit = commits.head() or ""
    return sorted(faults, key=lambda fault: hashlib.sha256(f"{commit}{fault.id}".encode()).digest())


def evaluated(target: str, faults: Sequence[AnyFault], options: Options) -> list[Row]:
    """A row for each fault, printed as it is known; of a sample, for as many as there is time for."""
    from andon.verify.faults.evaluate import evaluate

    begun, sample = time.monotonic(), options.sample
    jobs = shuffled(faults) if sample is not None else faults
    with screen(len(jobs), quiet=options.quiet, silent=options.as_json, timed=sample is not None) as note:
        return evaluate(
            target,
            jobs,
            every=options.every,
            workers=options.workers,
            limit=options.limit,
            deadline=None if sample is None else begun + sample * SHARE,
            note=note,
        )


def show(
    rows: Sequence[Row], target: str, options: Options, *, seconds: float, elsewhere: Mapping[str, str] | None = None
) -> None:
    """Print the counts, or all as JSON, and draw the picture; `elsewhere` says what cannot be injected, and why."""
    if options.html:
        options.html.write_text(matrix.picture(rows), encoding="utf-8")
    if options.as_json:
        click.echo(as_json(rows, {"target": target}), nl=False)
        return
    click.echo(matrix.summary(rows))
    for name, why in (elsewhere or {}).items():
        click.echo(f"  {name:<33} not injected: {why}")
    click.echo(f"{seconds:.0f} s")


def has_failed(rows: Sequence[Row]) -> bool:
    """Whether a fault was not found, or could not be judged."""
    return any(row.state in (UNFOUND, ERROR) for row in rows)


@contextmanager
def screen(total: int, *, quiet: bool, silent: bool, timed: bool) -> Generator[Callable[[Row], None]]:
    """A line for each fault as it is known, in color where it was not found, and now and then the time left."""
    target, begun, done = console(), time.monotonic(), 0
    last = begun

    def note(row: Row) -> None:
        nonlocal done, last
        done += 1
        if not (quiet and row.state in (FOUND, ABSENT)):
            target.print(matrix.line(row), style={UNFOUND: "red", ERROR: "yellow", ABSENT: "dim"}.get(row.state))
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS and done < total and not timed:
            last = now
            left = (now - begun) / done * (total - done)
            click.echo(f"  ... {done} of {total}, {left / 60:.0f}:{left % 60:02.0f} left", err=True)

    if silent:
        yield lambda row: None
        return
    target.print(matrix.header())
    yield note
