"""`andon dev faults`: inject known bugs, one at a time, and see which check finds each."""

import functools
import hashlib
import importlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from andon.console import console
from andon.workshop import matrix
from andon.workshop.matrix import ABSENT, CHECK, ERROR, FOUND, PARITY, TEST, UNFOUND, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from andon.verify.faults.detect import Result

OURS = "tests.subjects:SUBJECTS"
CATALOGUE = "tests.faults.catalogue"
TABLES = "tests.bench.tables"
BASELINE = Path("reports/baselines/faults.json")
SOURCES = ["andon/workshop/faults.py", "core", "tests/faults", "tests/plain.py", "tests/subjects.py", "verify"]
WARM = ("numpy", "pydantic", "safetensors.torch", "tokenizers", "torch", "torch.optim", "torch._dynamo")
TOGETHER = 4  # faults of a sample between two looks at the clock
SHARE = 0.7  # of a sample's seconds in which faults are injected; the rest judges the judges
LINE_EVERY_SECONDS = 10.0
EXAMPLES = """\b
Examples:
  andon dev faults
  andon dev faults --only rope --all
  andon dev faults --sample 45
  andon dev faults my_checks:subject
"""


class FaultsError(ValueError):
    """Faults that cannot be injected here; the message says what is missing and the next step."""


@click.command(epilog=EXAMPLES)
@click.argument("target", required=False, metavar="[PACKAGE.MODULE:SUBJECT]")
@click.option("--all", "every", is_flag=True, help="Run every check on every fault; else stop at the first finding.")
@click.option("--only", multiple=True, metavar="FAULT", help="A fault, or an area, or how its name begins; repeatable.")
@click.option("--sample", type=float, metavar="SECONDS", help="As many as fit, chosen by the commit.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Faults injected at a time.")
@click.option("--limit", type=float, default=90.0, show_default=True, help="Seconds after which one fault is given up.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Draw the matrix as a picture, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, no more.")
@click.option("-q", "--quiet", is_flag=True, help="Print what was not found, and the counts.")
def command(
    target: str | None,
    only: tuple[str, ...],
    sample: float | None,
    workers: int,
    limit: float,
    html: Path | None,
    *,
    every: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Inject known bugs, one at a time, and print which check finds each, in which tier and after how long.

    Without an argument: the catalogue, injected into this checkout's own core (in memory; no file is touched). With a
    subject of yours: faults that fit around any subject, to measure your own checks by. Exit codes: 0 all found,
    1 some were not, 2 usage.
    """
    from andon.verify.faults.jobs import run_jobs

    begun = time.monotonic()
    sys.path.insert(0, str(Path.cwd()))
    faults = chosen(target, only)
    from andon.gates import evidence

    digests = {} if target else evidence.digests(SOURCES)
    if sample:
        faults = shuffled(faults)
    show = screen(len(faults), quiet=quiet, silent=as_json, sample=sample)
    chosen_target, whole = target or OURS, not (target or only or sample)
    with show as note:
        deadline = begun + sample * SHARE if sample else None
        in_processes = functools.partial(run_jobs, workers=workers, limit=limit)
        rows = measure(chosen_target, faults, in_processes, every=every, deadline=deadline, note=note)
    if not target:
        keep(rows, digests, time.monotonic() - begun, whole=whole)
    if html:
        html.write_text(matrix.picture(rows), encoding="utf-8")
    if as_json:
        click.echo(matrix.as_json(rows, {"target": chosen_target}), nl=False)
    else:
        click.echo(_told(rows, _checkout(CATALOGUE).ELSEWHERE if whole else {}))
        click.echo(f"{time.monotonic() - begun:.0f} s")
    sys.exit(any(row.state in (UNFOUND, ERROR) for row in rows))


def chosen(target: str | None, only: Sequence[str]) -> list[Any]:
    """The catalogue's faults, or for a user's subject the generic ones, that `only` names; all where it is empty.

    Raises:
        FaultsError: this is not a checkout, or `only` names nothing.
    """
    from andon.verify.faults.generic import GENERIC_FAULTS

    if target:
        faults: list[Any] = list(GENERIC_FAULTS)
    else:
        faults = list(_checkout(CATALOGUE).FAULTS)
    areas = dict.fromkeys(fault.area for fault in faults)
    picked = [
        fault
        for fault in faults
        if not only or any(fault.area == word if word in areas else fault.id.startswith(word) for word in only)
    ]
    if not picked:
        raise FaultsError(f"--only {' '.join(only)} does not name a fault; areas are {', '.join(areas)}")
    return picked


def shuffled(faults: Sequence[Any]) -> list[Any]:
    """In an order that the commit decides, so that samples go through all of them."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=False, capture_output=True, text=True)
    return sorted(faults, key=lambda fault: hashlib.sha256(f"{head.stdout}{fault.id}".encode()).digest())


def measure(
    target: str,
    faults: Sequence[Any],
    in_processes: Any,
    *,
    every: bool,
    deadline: float | None,
    note: "Callable[[Row], None]",
) -> list[Row]:
    """A row a fault. Findings count only where the same check is silent on the same subject without the fault."""
    from andon.verify.faults import detect

    rows: dict[int, Row] = {}

    def run(work: Any, jobs: list[tuple[Any, Any]]) -> Generator[Any]:
        return in_processes(jobs, work, warm=[*WARM, detect.__name__])

    for place, outcome in detected(
        target, faults, run, detect, every=every, together=TOGETHER if deadline else len(faults)
    ):
        rows[place] = judged(blank(faults[place]), outcome, parity=detect.PARITY)
        if rows[place].state == FOUND or not getattr(faults[place], "test", ""):
            note(rows[place])
        if deadline and time.monotonic() > deadline:
            break
    tested(rows, faults, run, detect.unit_test, note)
    distrusted(rows, target, run, detect, note)
    return [rows[place] for place in sorted(rows)]


def detected(
    target: str, faults: Sequence[Any], run: Any, detect: Any, *, every: bool, together: int
) -> Iterator[tuple[int, Any]]:
    """Place and outcome of each detection, so many faults together; subjects' fingerprints are taken first."""
    clean: dict[str, Any] = {}
    for start in range(0, len(faults), together):
        some = faults[start : start + together]
        names = subjects_of(target, some)
        new = [name for name in names if name not in clean]
        for outcome in run(detect.fingerprints, [(None, detect.Task(target, (name,), {})) for name in new]):
            if outcome.error:
                raise FaultsError(f"{target}: {new[outcome.place]} cannot be run: {outcome.error}")
            clean |= outcome.value
        jobs = [_job(fault, target, names, clean, every=every) for fault in some]
        for outcome in run(detect.detect, jobs):
            yield start + outcome.place, outcome


def subjects_of(target: str, faults: Sequence[Any]) -> tuple[str, ...]:
    """The subjects that the checks run on for these faults; all of a user's."""
    from andon.verify.run.target import load

    if target == OURS:
        return tuple(dict.fromkeys(name for fault in faults for name in fault.subjects))
    return tuple(load(target))


def blank(fault: Any) -> Row:
    """A fault of which nothing is known yet."""
    if hasattr(fault, "module"):
        return Row(fault.id, fault.area, fault.status, fault.symptom, fault.source)
    return Row(fault.id, fault.area, "", fault.what)


def judged(row: Row, outcome: Any, *, parity: str) -> Row:
    """The row with what came of it."""
    if outcome.error:
        return replace(row, state=ERROR, detail=outcome.error, seconds=outcome.seconds)
    result: Result = outcome.value
    if result.needs:
        return replace(row, state=ABSENT, detail=f"needs {result.needs}")
    if not result.live:
        return replace(row, state=ERROR, detail="not live: nothing that can be seen of its subjects differs")
    if not result.found:
        return replace(row, detail=f"differs in {', '.join(result.live[:3])}", seconds=outcome.seconds)
    first = result.found[0]
    if first.raised:
        return replace(row, state=ERROR, detail=f"not silent: {first.message}", seconds=outcome.seconds)
    checks = tuple(dict.fromkeys(found.check for found in result.found if not found.raised))
    way = PARITY if first.check.partition(".")[0] == parity else CHECK
    return replace(
        row, state=FOUND, way=way, checks=checks, subject=first.subject, tier=first.tier,
        seconds=first.seconds, detail=first.message,
    )  # fmt: skip


def tested(rows: dict[int, Row], faults: Sequence[Any], run: Any, work: Any, note: "Callable[[Row], None]") -> None:
    """Faults that no check sees, by their unit test: live and found where it is red with them and green without."""
    unseen = [place for place, row in rows.items() if row.state in (UNFOUND, ERROR)]
    names = {place: faults[place].test for place in unseen if getattr(faults[place], "test", "")}
    injected = [(faults[place], name) for place, name in names.items()]
    clean = list(dict.fromkeys(names.values()))
    outcomes = {outcome.place: outcome for outcome in run(work, [*injected, *((None, name) for name in clean)])}
    for number, (place, name) in enumerate(names.items()):
        without = outcomes[len(injected) + clean.index(name)]
        rows[place] = _judged_by_test(rows[place], name, outcomes[number], without)
        note(rows[place])


def _judged_by_test(row: Row, name: str, outcome: Any, clean: Any) -> Row:
    """The row with what came of a unit test with the fault and without any."""
    broken = outcome.error or clean.error or ("is red without any fault" if clean.value else "")
    if broken:
        return replace(row, state=ERROR, detail=f"{name} {broken}")
    if outcome.value:
        return replace(row, state=FOUND, way=TEST, checks=(name,), seconds=outcome.seconds, detail="")
    return row


def distrusted(rows: dict[int, Row], target: str, run: Any, detect: Any, note: "Callable[[Row], None]") -> None:
    """A check that also alarms without the fault has found nothing."""
    finders: dict[str, set[str]] = {}
    for row in rows.values():
        if row.state == FOUND and row.way != TEST:
            finders.setdefault(row.subject, set()).update(f"{row.subject}/{check}" for check in row.checks)
    jobs = [(None, detect.Task(target, tuple(sorted(pairs)), {})) for pairs in finders.values()]
    for outcome in run(detect.alarms, jobs):
        subject = list(finders)[outcome.place]
        for place, row in rows.items():
            if why := _false_alarm(row, subject, outcome):
                rows[place] = replace(row, state=ERROR, way="", checks=(), detail=why)
                note(rows[place])


def _false_alarm(row: Row, subject: str, outcome: Any) -> str:
    """Why a row's findings are none, by what its checks said of the clean subject; empty where they stand."""
    found = {(each.subject, each.check) for each in outcome.value or ()}
    for check in row.checks:
        if (row.subject, check) in found:
            return f"{check} alarms without the fault, too"
    return f"the clean subject: {outcome.error}" if outcome.error and row.subject == subject else ""


def _told(rows: Sequence[Row], elsewhere: "Mapping[str, str]") -> str:
    """The counts, and what is not injected and why."""
    return "\n".join([matrix.summary(rows), *(f"  {name:<33} not injected: {why}" for name, why in elsewhere.items())])


def keep(rows: list[Row], digests: dict[str, str], seconds: float, *, whole: bool) -> None:
    """Evidence always; the committed matrix and the table of docs after the whole catalogue."""
    from andon.gates import evidence

    if whole:
        elsewhere = _checkout(CATALOGUE).ELSEWHERE
        ordered = {"command": "andon dev faults", "seconds": round(seconds), "sources": digests, "elsewhere": elsewhere}
        BASELINE.parent.mkdir(parents=True, exist_ok=True)
        BASELINE.write_text(matrix.as_json(rows, ordered), encoding="utf-8")
        _checkout(TABLES).rewrite_pages()
    found = matrix.counts(rows)
    committed = matrix.from_json(json.loads(BASELINE.read_text(encoding="utf-8"))) if BASELINE.exists() else []
    known = {row.fault: row.state for row in committed}
    whole_counts = matrix.counts(committed)
    share = whole_counts["found_by_check"] / whole_counts["live"] if committed else None
    metrics = {
        **{key: (float(found[key]), "faults") for key in ("planted", "live", "found", "unfound", "errors")},
        "disagreeing_with_committed": (float(sum(known.get(row.fault) != row.state for row in rows)), "faults"),
        "catalogue_live": (float(whole_counts["live"]) if committed else None, "faults"),
        "catalogue_unfound": (float(whole_counts["unfound"] + whole_counts["errors"]) if committed else None, "faults"),
        "catalogue_found_by_checks": (share, "share"),
        "seconds": (seconds, "s"),
    }
    measured = {key: evidence.Metric(*value) for key, value in metrics.items()}
    line = shlex.join(["andon", *sys.argv[1:]])
    evidence.write_evidence(evidence.Evidence("faults", line, seconds, digests, measured))


@contextmanager
def screen(total: int, *, quiet: bool, silent: bool, sample: float | None) -> "Generator[Callable[[Row], None]]":
    """A line a fault as it is judged, unfound ones in red, and how much time is left."""
    target, begun, done = console(), time.monotonic(), 0
    last = begun

    def note(row: Row) -> None:
        nonlocal done, last
        done += 1
        if not (quiet and row.state in (FOUND, ABSENT)):
            colour = {UNFOUND: "red", ERROR: "yellow", ABSENT: "dim"}.get(row.state)
            target.print(matrix.line(row), style=colour)
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS and done < total and not sample:
            last = now
            left = (now - begun) / done * (total - done)
            click.echo(f"  ... {done} of {total}, {left / 60:.0f}:{left % 60:02.0f} left", err=True)

    if silent:
        yield lambda row: None
        return
    target.print(matrix.header())
    yield note


def _job(fault: Any, target: str, names: tuple[str, ...], clean: dict[str, Any], *, every: bool) -> tuple[Any, Any]:
    from andon.verify.faults.detect import Task

    task = Task
    if target == OURS:
        own = {name: clean[name] for name in fault.subjects}
        return fault, task(target, fault.subjects, own, every)
    return None, task(target, names, clean, every, fault.id)


def _checkout(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("tests"):
            raise
        raise FaultsError(
            "the catalogue is injected into a checkout's core: run this in a clone of the repository, "
            "or name a subject of yours: andon dev faults package.module:subject"
        ) from error
