"""`python -m tests.third_party`: current transformers, PEFT and litgpt, as they are and with injected faults.

Nothing may be found in the packages as they are, but for what KNOWN lists; of the faults, 20 at least must be found.
Exit code: 0 so it is, 1 not, 3 could not measure. Writes reports/evidence/third_party.json and the committed
reports/baselines/third_party.json.
"""

import sys
import time
from typing import Any

import click

from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from tests.bench.environments import PEERS, THIRD_PARTY, BenchError
from tests.bench.tables import THIRD_PARTY as BASELINE
from tests.bench.tables import write_baseline
from tests.faults.third_party import FAULTS
from tests.third_party.run import run
from tests.third_party.subjects import ENVIRONMENTS, KNOWN, unknown

SOURCES = ("verify", "tests/third_party", "tests/faults/third_party.py")
WANTED = 20
TWIN = "litgpt-"  # before the name of a fault that is injected into the other packages too


def publish(results: list[dict[str, Any]], seconds: float, sources: dict[str, str]) -> dict[str, Any]:
    """Write the evidence and the baseline; returns the latter. A fault found in two packages is one."""
    as_they_are = [result for result in results if not result["fault"]]
    rows = [
        {
            "fault": result["fault"],
            "subject": result["subject"],
            "finder": next((each["check"] for each in unknown(result) if not each["mistake"]), None),
        }
        for result in results
        if result["fault"]
    ]
    found = {
        "packages": [line for name in ENVIRONMENTS for line in (PEERS | THIRD_PARTY)[name] if "==" in line],
        "subjects": {result["subject"]: [each["check"] for each in unknown(result)] for result in as_they_are},
        "known": KNOWN,
        "rows": rows,
        "different": len({str(row["fault"]).removeprefix(TWIN) for row in rows if row["finder"]}),
    }
    metrics = {
        "subjects": Metric(len(as_they_are)),
        "false_alarms": Metric(sum(map(bool, found["subjects"].values()))),
        "faults": Metric(len(rows)),
        "found": Metric(sum(bool(row["finder"]) for row in rows)),
        "different_found": Metric(found["different"]),
    }
    write_evidence(Evidence("third_party", "nox -s third_party", seconds, sources, metrics))
    write_baseline(BASELINE, found)
    return found


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="TEXT", help="Faults and subjects with this in their names.")
@click.option("--clean", is_flag=True, help="The packages as they are, no faults.")
@click.option("--in", "environments", multiple=True, type=click.Choice(list(ENVIRONMENTS)), help="Not all of them.")
def main(only: tuple[str, ...], clean: bool, environments: tuple[str, ...]) -> None:
    """Check, print, write."""
    begun, sources, results = time.monotonic(), digests(SOURCES), []
    for environment in environments or ENVIRONMENTS:
        jobs = [{"fault": None, "subject": name, "seed": 0} for name in ENVIRONMENTS[environment]]
        faults = () if clean else FAULTS[environment]
        jobs += [{"fault": fault.id, "subject": fault.subjects[0], "seed": 0} for fault in faults]
        chosen = [job for job in jobs if not only or any(text in str(job.values()) for text in only)]
        try:
            results += run(environment, chosen, lambda line: click.echo(line, err=True)) if chosen else []
        except BenchError as error:
            click.echo(f"could not measure: {error}", err=True)
            sys.exit(3)
    injected = [result for result in results if result["fault"]]
    as_they_are = [result for result in results if not result["fault"]]
    found = [result for result in injected if caught(result)]
    alarms = [result for result in as_they_are if unknown(result)]
    click.echo(table(as_they_are, injected))
    click.echo(f"{len(as_they_are)} subjects as they are, {len(alarms)} with a finding that is not known")
    packages = ", ".join(" ".join((PEERS | THIRD_PARTY)[name]) for name in ENVIRONMENTS)
    click.echo(f"{len(found)} of {len(injected)} faults found, in {packages}")
    if only or clean or environments:
        sys.exit(int(bool(alarms)))
    different = publish(results, time.monotonic() - begun, sources)["different"]
    click.echo(f"{different} different faults found")
    sys.exit(int(bool(alarms) or different < WANTED))


def caught(result: dict[str, Any]) -> bool:
    """Whether a check gave a verdict against it that it does not give of the package as it is."""
    return any(not finding["mistake"] for finding in unknown(result))


def table(as_they_are: list[dict[str, Any]], injected: list[dict[str, Any]]) -> str:
    """A line a job: what was checked, and the first check that found something, with its numbers."""
    lines = []
    for result in [*as_they_are, *injected]:
        findings = unknown(result)
        said = f"{findings[0]['check']}: {findings[0]['message']}" if findings else "nothing found"
        what = f"{result['fault'] or 'as it is'} ({result['subject']})"
        lines.append(f"{what:<44} {result['seconds']:>6.1f} s  {' '.join(said.split())[:150]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
