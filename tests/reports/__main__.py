"""`python -m tests.reports`: bugs on public record written in small; which check finds each, and is the rest silent?

Exit code: 0 all that are not listed as not found are found, and nothing correct is accused, 1 not so, 3 could not
measure. Writes the committed reports/baselines/reports.json and the table made of it.
"""

import sys
from typing import Any

import click

from andon.verify.faults.jobs import run_jobs
from tests.bench.ordinary_tables import REPORTS
from tests.bench.tables import rewrite_pages, write_baseline
from tests.reports.cases import CASES, NOT_FOUND, Result, check_case, found_by, said
from tests.reports.correct import CORRECT

LIMIT = 600.0  # seconds of one side
Job = tuple[str, str]


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="TEXT", help="Cases with this in their names; may be repeated.")
def main(only: tuple[str, ...]) -> None:
    """Check both sides of each, print, write."""
    jobs = [(name, side) for name in CASES for side in ("faulty", "fixed")] + [(name, "") for name in CORRECT]
    jobs = [job for job in jobs if not only or any(text in job[0] for text in only)]
    results: dict[Job, Result] = {}
    for outcome in run_jobs([(None, job) for job in jobs], check_case, limit=LIMIT):
        job = jobs[outcome.place]
        if outcome.value is None:
            click.echo(f"could not measure: {' '.join(job)}: {outcome.error}", err=True)
            sys.exit(3)
        results[job] = outcome.value
        click.echo(f"{len(results)}/{len(jobs)} {' '.join(job)}: {', '.join(said(outcome.value)) or 'nothing'}", err=True)
    cases = [row(name, results) for name in CASES if (name, "fixed") in results]
    accused = {name: said(results[name, ""]) for name in CORRECT if said(results.get((name, ""), {"findings": []}))}
    if not only:
        write_baseline(REPORTS, {"cases": cases, "correct": len(CORRECT), "accused": accused})
        rewrite_pages()
    click.echo("\n".join(line(case) for case in cases))
    click.echo(f"{sum(bool(case['found']) for case in cases)} of {len(cases)} found; accused: {accused or 'nothing else'}")
    sys.exit(int(bool(accused) or any(is_wrong(case) for case in cases)))


def row(name: str, results: dict[Job, Result]) -> dict[str, Any]:
    """A case for the committed measurement."""
    accused = said(results[name, "fixed"])
    found = found_by(results[name, "faulty"], accused)
    return {"name": name, "bug": CASES[name].BUG, "found": found, "why": NOT_FOUND.get(name, ""), "accused": accused}


def line(case: dict[str, Any]) -> str:
    """A case for the terminal."""
    found = ", ".join(case["found"]) or f"not found: {case['why'] or 'AND NOT LISTED AS SUCH'}"
    return f"{case['name']}: {found}; without the bug: {', '.join(case['accused']) or 'nothing'}"


def is_wrong(case: dict[str, Any]) -> bool:
    """Whether correct code is accused, or what is found differs from what is listed."""
    return bool(case["accused"]) or bool(case["found"]) == (case["name"] in NOT_FOUND)


if __name__ == "__main__":
    main()
