"""`python -m tests.bench`: our training step beside Hugging Face's and LitGPT's, in ratios.

Writes reports/baselines/bench.json, reports/evidence/bench.json and README's tables, prints the tables and each
figure's verdict. Exit code: 0 every figure reached, 1 one missed, 2 README, gates or configuration must be mended
first, 3 could not measure.
"""

import sys
import tempfile
import time
from pathlib import Path

import click

from core.config import ConfigError
from gates.clock import read_clock, usage
from gates.config import GateError, load_gates
from gates.evidence import FOLDER, Evidence, digests, write_evidence
from gates.judge import judge
from gates.render import render_text
from tests.bench import tables
from tests.bench.environments import PEERS, BenchError
from tests.bench.machine import describe_machine
from tests.bench.measure import SOURCES, measure, schedule, shipped_workload
from tests.bench.summary import metrics, summarise

COMMAND = "nox -s bench"
BUSY = 0.10  # of the cores, taken by other processes


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="2 rounds of 2 steps, for developers; writes nothing.")
def main(quick: bool) -> None:
    """Measure, write, judge."""
    try:
        gates, workload = load_gates(), shipped_workload()
        gates.tier("bench")
        tables.is_current()  # what would fail in half an hour fails now
    except (GateError, ConfigError, tables.TableError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    if not quick:
        (FOLDER / "bench.json").unlink(missing_ok=True)  # what is not measured to its end leaves nothing
    sources, begun, clock = digests(SOURCES), time.monotonic(), read_clock()
    jobs = schedule(rounds=2, repeats=2, memory_rounds=1) if quick else schedule(rounds=7, repeats=4, memory_rounds=2)
    try:
        measured = measure(workload, jobs, lambda line: click.echo(line, err=True))
    except BenchError as error:
        click.echo(f"could not measure: {error}", err=True)
        sys.exit(3)
    others = usage(clock, read_clock()).others_share
    peers = {name: " ".join(wanted) for name, wanted in PEERS.items()}
    context = {"command": COMMAND, "machine": describe_machine(), "peers": peers, "others_share": others}
    summary = {**context, **summarise(measured, workload), "sources": sources}
    evidence = Evidence("bench", COMMAND, time.monotonic() - begun, sources, metrics(summary))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if quick else FOLDER
        write_evidence(evidence, folder)
        verdict = judge("bench", gates, folder)
    click.echo(f"{tables.speed(summary)}\n\n{tables.memory(summary)}\n\n{render_text(verdict)}", nl=False)
    if others > BUSY:
        click.echo(f"Other processes took {others:.0%} of the cores meanwhile: measure again on a quiet machine.")
    if quick:
        click.echo("Quick: not for publication, and nothing is written.")
    else:
        tables.write_baseline(tables.BENCH, summary)
        tables.rewrite_readme()
    sys.exit(verdict.exit_code)


if __name__ == "__main__":
    main()
