"""`python -m tests.faults`: inject the catalogue of known bugs into our own core, and see which check finds each.

Faults are injected in memory, one at a time; no file is touched. A whole run writes the committed matrix,
reports/baselines/faults.json, and the tables made of it; a part is compared with it. With `--all` every check is made
on every fault, half an hour, to count what is found and see where the check that names the cause stands. Exit codes: 0
all found, 1 some were not, 2 usage.

With `--door` the same faults are asked about through `andon verify -- andon train CONFIG`, with no Subject (an hour); a
whole run writes reports/baselines/faults_door.json. Exit codes are the same; `--resume` keeps what is known.
"""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from andon.files import write_whole
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.verify.faults.rows import Row, as_json, counts, from_json, order
from andon.workshop.faults import Options, chosen, evaluated, fault_options, has_failed, show
from tests.bench import tables
from tests.bench.door_tables import FAULTS_DOOR, faults_door_summary
from tests.door.results import MISSED, UNMEASURED
from tests.faults import door
from tests.faults.catalogue import ELSEWHERE, FAULTS

TARGET = "tests.subjects:SUBJECTS"
SOURCES = ("core", "tests/faults", "tests/plain.py", "tests/subjects.py", "verify")


@click.command(help=__doc__)
@fault_options
@click.option("--door", "by_door", is_flag=True, help="Ask through the door, with no Subject.")
@click.option("--resume", is_flag=True, help="With --door: keep what an earlier run has.")
def main(by_door: bool, resume: bool, **options: Any) -> None:
    """Inject, print, keep."""
    if by_door:
        sys.exit(through_the_door(Options(**options), resume=resume))
    given, begun, sources = Options(**options), time.monotonic(), digests(SOURCES)
    whole = not given.only and given.sample is None
    rows = evaluated(TARGET, chosen(FAULTS, given.only), given)
    keep(rows, sources, time.monotonic() - begun, whole=whole)
    show(rows, TARGET, given, seconds=time.monotonic() - begun, elsewhere=ELSEWHERE if whole else None)
    sys.exit(has_failed(rows))


def through_the_door(given: Options, *, resume: bool) -> int:
    """Ask about the faults, print each and the counts, and keep a whole run; the exit code."""
    begun, sources = time.monotonic(), digests((*SOURCES, "andon", "tests/door"))
    picked = chosen(FAULTS, given.only)
    rows = door.asked(picked, given.workers, lambda row: click.echo(door.line(row), err=True), resume=resume)
    if len(picked) == len(FAULTS):
        line = shlex.join(["python", "-m", "tests.faults", *sys.argv[1:]])
        write_evidence(Evidence("faults_door", line, time.monotonic() - begun, sources, door.metrics(rows)))
        content = {"command": line, "counts": door.counts(rows), "rows": [asdict(row) for row in rows]}
        tables.write_baseline(FAULTS_DOOR, content)
        tables.rewrite_pages()
    click.echo(faults_door_summary(door.counts(rows)))
    return int(any(row.light in (MISSED, UNMEASURED) for row in rows))


def keep(rows: Sequence[Row], sources: dict[str, str], seconds: float, *, whole: bool) -> None:
    """Write evidence; after a whole run the committed matrix and its tables as well."""
    if whole:
        about = {"command": "python -m tests.faults", "seconds": round(seconds), "sources": sources}
        write_whole(tables.FAULTS, as_json(rows, {**about, "elsewhere": ELSEWHERE}))
        tables.rewrite_pages()
    path = tables.FAULTS
    committed = from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
    line = shlex.join(["python", "-m", "tests.faults", *sys.argv[1:]])
    write_evidence(Evidence("faults", line, seconds, sources, metrics(rows, committed, seconds)))


def metrics(rows: Sequence[Row], committed: Sequence[Row], seconds: float) -> dict[str, Metric]:
    """What was found now, what differs from the committed matrix, and what that says; null where there is none."""
    now, whole, known = counts(rows), counts(committed), {row.fault: row.state for row in committed}
    missing = Metric(None, "faults")
    return {
        **{key: Metric(now[key], "faults") for key in ("injected", "live", "found", "unfound", "errors")},
        "disagreeing_with_committed": Metric(sum(known.get(row.fault) != row.state for row in rows), "faults"),
        "catalogue_live": Metric(whole["live"], "faults") if committed else missing,
        "catalogue_unfound": Metric(whole["unfound"] + whole["errors"], "faults") if committed else missing,
        "catalogue_found_by_checks": Metric(
            whole["found_by_check"] / whole["live"] if whole["live"] else None, "share"
        ),
        "findings_median": Metric(order(committed)["findings_median"], "findings"),
        "named_first": Metric(order(committed)["named_first"], "share"),
        "seconds": Metric(seconds, "s"),
    }


if __name__ == "__main__":
    main()
