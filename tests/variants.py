"""`python -m tests.variants`: correct code of many kinds, on which no check may find anything.

Each subject is checked with three seeds of weights and batches. Prints a line each, and the bound on the rate of false
alarms that so many answers leave (Clopper and Pearson 1934, one-sided, 95%: about 3 / n where none is an alarm). Exit
code: 0 nothing found, 1 something was, 3 could not measure. Writes reports/evidence/nightly.json and the committed
reports/baselines/nightly.json.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

import click

from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.verify.faults.jobs import run_jobs
from tests.bench.environments import BenchError
from tests.bench.tables import NIGHTLY, write_baseline
from tests.clean import MANUAL, ours
from tests.confidence import highest_share
from tests.third_party.check import check_subject
from tests.third_party.run import run
from tests.third_party.subjects import unknown
from tests.third_party.worker import LIMIT, describe

SEEDS = (0, 1, 2)
ENVIRONMENTS = {
    "third_party": ("llama", "llama-eager", "llama-tied", "llama-dropout", "gpt2", "qwen2", "mistral", "gemma", "lora"),
    "litgpt": ("litgpt", "litgpt-neox", "litgpt-lora"),
}
KINDS = {"": "other ways to write it", "core": "our core", "third_party": "transformers, PEFT", "litgpt": "litgpt"}
SOURCES = ("core", "verify", "tests/clean.py", "tests/subjects.py", "tests/third_party")


def jobs(names: Iterable[str]) -> list[dict[str, Any]]:
    """Each with each seed."""
    return [{"fault": None, "subject": name, "seed": seed} for name in names for seed in SEEDS]


def at_home(chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs that this interpreter can do."""
    results = []
    for outcome in run_jobs([(None, (job["subject"], job["seed"])) for job in chosen], check_subject, limit=LIMIT):
        results.append(
            chosen[outcome.place] | {"error": outcome.error} | (outcome.value or {"seconds": outcome.seconds})
        )
        click.echo(f"{len(results)}/{len(chosen)} {describe(results[-1])}", err=True)
    return results


def table(results: list[dict[str, Any]]) -> str:
    """A line a subject: how many checks ran, and what was found."""
    lines = []
    for name in dict.fromkeys(result["subject"] for result in results):
        own = [result for result in results if result["subject"] == name]
        said = {finding["check"]: finding["message"] for result in own for finding in unknown(result)}
        verdicts = sum(result.get("checked", 0) for result in own)
        lines.append(
            f"{name:<22} {verdicts:>5} verdicts {sum(result['seconds'] for result in own):>7.1f} s  {said or 'nothing'}"
        )
    return "\n".join(lines)


def kind(name: str) -> str:
    """Whose code a subject is."""
    homes = {own: home for home, names in ENVIRONMENTS.items() for own in names}
    return KINDS[homes.get(name, "core" if name.startswith("core ") else "")]


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """What is committed: counts by kind of code, and every alarm."""
    kinds = {name: {"subjects": 0, "runs": 0, "verdicts": 0, "alarms": 0} for name in KINDS.values()}
    for name in dict.fromkeys(result["subject"] for result in results):
        kinds[kind(name)]["subjects"] += 1
    for result in results:
        own = kinds[kind(result["subject"])]
        own["runs"] += 1
        own["verdicts"] += result.get("checked", 0)
        own["alarms"] += bool(unknown(result))
    runs, alarms = (sum(own[what] for own in kinds.values()) for what in ("runs", "alarms"))
    said = [
        {"subject": result["subject"], "seed": result["seed"], "findings": unknown(result)}
        for result in results
        if unknown(result)
    ]
    return {"kinds": kinds, "seeds": list(SEEDS), "highest_share": highest_share(alarms, runs), "alarms": said}


def publish(results: list[dict[str, Any]], seconds: float, sources: dict[str, str]) -> dict[str, Any]:
    """Write the evidence and the baseline; returns the latter."""
    found = summary(results)
    totals = {what: sum(own[what] for own in found["kinds"].values()) for what in ("subjects", "runs", "verdicts")}
    seeds = min(sum(result["subject"] == name for result in results) for name in {each["subject"] for each in results})
    figures = totals | {
        "fewest_seeds": seeds,
        "false_alarms": len(found["alarms"]),
        "highest_share": found["highest_share"],
    }
    metrics = {name: Metric(value) for name, value in figures.items()}
    write_evidence(Evidence("nightly", "nox -s nightly", seconds, sources, metrics))
    write_baseline(NIGHTLY, found)
    return found


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="TEXT", help="Subjects with this in their names.")
@click.option("--seed", "seeds", multiple=True, type=int, help="These seeds alone.")
def main(only: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Check all, print, write."""
    begun, sources = time.monotonic(), digests(SOURCES)
    homes = {"": [*MANUAL, *(f"core {name}" for name in ours())], **ENVIRONMENTS}
    results: list[dict[str, Any]] = []
    for home, names in homes.items():
        chosen = [job for job in jobs(names) if not only or any(text in job["subject"] for text in only)]
        chosen = [job for job in chosen if not seeds or job["seed"] in seeds]
        try:
            if chosen:
                results += run(home, chosen, lambda line: click.echo(line, err=True)) if home else at_home(chosen)
        except BenchError as error:
            click.echo(f"could not measure: {error}", err=True)
            sys.exit(3)
    click.echo(table(results))
    if only or seeds:
        sys.exit(int(any(unknown(result) for result in results)))
    found = publish(results, time.monotonic() - begun, sources)
    alarms = len(found["alarms"])
    click.echo(f"{len(results)} runs, {alarms} with an alarm: with 95% confidence below {found['highest_share']:.1%}")
    sys.exit(int(bool(alarms)))


if __name__ == "__main__":
    main()
