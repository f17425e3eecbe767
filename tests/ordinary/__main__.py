"""`python -m tests.ordinary`: correct code of many kinds and hands, on which no check may find anything red.

Exit code: 0 no subject red or blamed, 1 some are, 2 usage, 3 could not measure. A run of whole halves writes the
committed reports/baselines/ordinary.json and the table made of it; a sample is chosen by the commit, and leaves the
evidence of tier 3.
"""

import json
import re
import sys
import time
from typing import Any

import click

from andon.gates.commits import head
from andon.gates.evidence import Evidence, digests, write_evidence
from tests.bench.environments import BenchError
from tests.bench.ordinary_tables import ORDINARY
from tests.bench.tables import rewrite_pages, write_baseline
from tests.ordinary.session.job import HALVES
from tests.ordinary.session.results import is_alarm, metrics, report, summary
from tests.ordinary.session.run import Job, Selection, label, print_progress, run

SOURCES = ("verify", "tests/ordinary")


@click.command(help=__doc__)
@click.option("--half", "halves", multiple=True, type=click.Choice(list(HALVES)), help="Not both.")
@click.option("--only", multiple=True, metavar="CHECK", help="A check or an area of checks; may be repeated.")
@click.option("--names", multiple=True, metavar="TEXT", help="Subjects with this in 'area: name'; may be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Of weights and batches.")
@click.option("--part", default="1/1", show_default=True, metavar="i/n", help="Every n-th subject, from the i-th on.")
@click.option("--sample", type=float, metavar="SECONDS", help="As many as so much CPU allows, chosen by the commit.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Subjects at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON only.")
def main(halves: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Check, print, write."""
    selection = Selection(**options, commit=head() or "")
    if not is_part(selection.part):
        raise click.UsageError(f"--part {selection.part}: two whole numbers, i/n with 1 <= i <= n")
    begun, sources, results = time.monotonic(), digests(SOURCES), dict[str, list[Job]]()
    try:
        for half in halves or HALVES:
            results[half] = run(half, selection, costs(half), print_progress)
    except BenchError as error:
        click.echo(f"could not measure: {error}", err=True)
        sys.exit(3)
    every = [result for own in results.values() for result in own]
    keep(results, selection, sources, time.monotonic() - begun)
    if as_json:
        click.echo(json.dumps(every, indent=2))
    else:
        if selection.sample is not None:
            click.echo(f"of commit {selection.commit[:12]}: {', '.join(map(label, every))}")
        click.echo(report(every))
    sys.exit(int(any(map(is_alarm, every))) if every else 3)


def keep(results: dict[str, list[Job]], selection: Selection, sources: dict[str, str], seconds: float) -> None:
    """Write what a whole run found, or the evidence of a sample; nothing of other runs."""
    halves = {half: summary(own) for half, own in results.items()}
    command = " ".join(["python -m tests.ordinary", *sys.argv[1:]])
    if selection.is_whole:
        write_baseline(ORDINARY, committed() | halves)
        rewrite_pages()
    if selection.is_whole and set(halves) == set(HALVES):
        write_evidence(Evidence("ordinary_all", command, seconds, sources, metrics(halves)))
    if selection.sample is not None:
        write_evidence(Evidence("ordinary", command, seconds, sources, metrics(halves)))


def committed() -> dict[str, Any]:
    """The committed measurement of each half; empty where there is none."""
    return json.loads(ORDINARY.read_text(encoding="utf-8")) if ORDINARY.exists() else {}


def costs(half: str) -> dict[str, float]:
    """What each subject of a half cost when it was last measured whole, in CPU seconds."""
    return committed().get(half, {}).get("cpu", {})


def is_part(text: str) -> bool:
    """Whether this names a part of so many."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    return bool(found) and 1 <= int(found[1]) <= int(found[2])


if __name__ == "__main__":
    main()
