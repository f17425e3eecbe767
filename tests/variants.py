"""`python -m tests.variants`: correct code of many kinds, on which no check may find anything.

Each subject is asked with three seeds of weights and batches. Prints a line each, and the bound on the rate of false
alarms that so many silent answers leave (Hanley and Lippman-Hand 1983: 3 / n at 95%). Exit code: 0 nothing found, 1
something was, 3 could not measure. Writes reports/evidence/variants.json.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

import click

from gates.evidence import Evidence, Metric, digests, write_evidence
from tests.bench.environments import BenchError
from tests.clean import MANUAL, ours
from tests.strangers.ask import ask
from tests.strangers.run import run
from tests.strangers.subjects import unknown
from tests.strangers.worker import LIMIT, describe
from verify.plant import each

SEEDS = (0, 1, 2)
ENVIRONMENTS = {
    "strangers": ("llama", "llama-eager", "llama-tied", "llama-dropout", "gpt2", "qwen2", "mistral", "gemma", "lora"),
    "litgpt": ("litgpt", "litgpt-neox", "litgpt-lora"),
}
SOURCES = ("core", "verify", "tests/clean.py", "tests/subjects.py", "tests/strangers")


def jobs(names: Iterable[str]) -> list[dict[str, Any]]:
    """Each with each seed."""
    return [{"fault": None, "subject": name, "seed": seed} for name in names for seed in SEEDS]


def at_home(chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs that this interpreter can do."""
    results = []
    for outcome in each([(None, (job["subject"], job["seed"])) for job in chosen], ask, limit=LIMIT):
        results.append(
            chosen[outcome.place] | {"error": outcome.error} | (outcome.value or {"seconds": outcome.seconds})
        )
        click.echo(f"{len(results)}/{len(chosen)} {describe(results[-1])}", err=True)
    return results


def table(results: list[dict[str, Any]]) -> str:
    """A line a subject: how much was asked of it, and what was found."""
    lines = []
    for name in dict.fromkeys(result["subject"] for result in results):
        own = [result for result in results if result["subject"] == name]
        said = {finding["check"]: finding["message"] for result in own for finding in unknown(result)}
        asked = sum(result.get("checked", 0) for result in own)
        lines.append(
            f"{name:<22} {asked:>5} verdicts {sum(result['seconds'] for result in own):>7.1f} s  {said or 'nothing'}"
        )
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="TEXT", help="Subjects with this in their names.")
@click.option("--seed", "seeds", multiple=True, type=int, help="These seeds alone.")
def main(only: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Ask all, print, write."""
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
    alarms = [result for result in results if unknown(result)]
    verdicts = sum(result.get("checked", 0) for result in results)
    count = len({result["subject"] for result in results})
    click.echo(table(results))
    click.echo(
        f"{count} clean subjects, {len(results)} runs of the suite, {verdicts} verdicts: {len(alarms)} false alarms; "
        f"at 95% fewer than {3 / max(1, len(results)):.1%} of runs and {3 / max(1, verdicts):.2%} of verdicts"
    )
    if not (only or seeds):
        found = {"subjects": count, "runs": len(results), "verdicts": verdicts, "false_alarms": len(alarms)}
        figures = {name: Metric(value) for name, value in found.items()}
        write_evidence(Evidence("variants", "nox -s nightly", time.monotonic() - begun, sources, figures))
    sys.exit(int(bool(alarms)))


if __name__ == "__main__":
    main()
