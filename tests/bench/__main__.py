"""`python -m tests.bench [core|adapters]...`: our training steps beside other libraries', in ratios; both by default.

`core`: full training beside Hugging Face and LitGPT. `adapters`: LoRA and QLoRA beside PEFT and bitsandbytes, and NF4
on SmolLM2-135M. Each part leaves a baseline and evidence of its own, and the tables of docs are rewritten. Exit code: 0
every figure reached, 1 one missed, 2 a page, gates or configuration must be fixed first, 3 could not measure.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from andon.core.config import ConfigError
from andon.gates.clock import read_clock, usage
from andon.gates.config import GateError, Gates, load_gates
from andon.gates.evidence import FOLDER, Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text
from tests.bench import adapters, measure, summary, tables
from tests.bench.environments import PEERS, BenchError
from tests.bench.machine import describe_machine
from tests.bench.workload import Workload

BUSY = 0.10  # of the cores, taken by other processes


class Part(NamedTuple):
    """What can be measured alone; `rounds` are those of times, steps a round, and those of memory."""

    name: str  # of its evidence and its tier
    rounds: tuple[int, int, int]
    schedule: Callable[..., list[measure.Job]]
    measure: Callable[..., Any]
    summarize: Callable[..., dict[str, Any]]
    metrics: Callable[[dict[str, Any]], dict[str, Metric]]
    shown: tuple[Callable[[dict[str, Any]], str], ...]
    baseline: Path


# What differs from process to process is more than what differs from step to step: many rounds of few steps.
PARTS = {
    "core": Part(
        "bench",
        (7, 2, 1),
        measure.schedule,
        measure.measure,
        summary.summarize,
        summary.metrics,
        (tables.speed, tables.memory),
        tables.BENCH,
    ),
    "adapters": Part(
        "bench_adapters",
        (5, 2, 1),
        adapters.schedule,
        adapters.measure,
        adapters.summarize,
        adapters.metrics,
        (tables.adapters, tables.nf4),
        tables.BENCH_ADAPTERS,
    ),
}


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice(tuple(PARTS)))
@click.option("--quick", is_flag=True, help="2 rounds of 2 steps, for developers; writes nothing.")
def main(parts: tuple[str, ...], quick: bool) -> None:
    """Measure, write, judge."""
    chosen = [PARTS[name] for name in parts or PARTS]
    try:
        gates, workload = load_gates(), measure.shipped_workload()
        for part in chosen:
            gates.tier(part.name)
        tables.rewritten()  # what would fail in half an hour fails now
    except (GateError, ConfigError, tables.TableError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    sys.exit(max([run(part, gates, workload, quick=quick) for part in chosen]))


def run(part: Part, gates: Gates, workload: Workload, *, quick: bool) -> int:
    """One part, to its verdict's exit code."""
    if not quick:
        (FOLDER / f"{part.name}.json").unlink(missing_ok=True)  # what is not measured to its end leaves nothing
    command = f"nox -s bench -- {next(name for name, each in PARTS.items() if each is part)}"
    sources, begun, clock = digests(measure.SOURCES), time.monotonic(), read_clock()
    jobs = part.schedule(*((2, 2, 1) if quick else part.rounds))
    try:
        measured = part.measure(workload, jobs, lambda line: click.echo(line, err=True))
    except BenchError as error:
        click.echo(f"could not measure: {error}", err=True)
        return 3
    others = usage(clock, read_clock()).others_share
    peers = {name: " ".join(wanted) for name, wanted in PEERS.items()}
    context = {"command": command, "machine": describe_machine(), "peers": peers, "others_share": others}
    content = {**context, **part.summarize(measured, workload), "sources": sources}
    evidence = Evidence(part.name, command, time.monotonic() - begun, sources, part.metrics(content))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if quick else FOLDER
        write_evidence(evidence, folder)
        verdict = judge(part.name, gates, folder)
    shown = "\n\n".join(show(content) for show in part.shown)
    click.echo(f"{shown}\n\n{render_text(verdict)}", nl=False)
    if others > BUSY:
        click.echo(f"Other processes took {others:.0%} of the cores meanwhile: measure again on a quiet machine.")
    if quick:
        click.echo("Quick: not for publication, and nothing is written.")
    else:
        tables.write_baseline(part.baseline, content)
        tables.rewrite_pages()
    return verdict.exit_code


if __name__ == "__main__":
    main()
