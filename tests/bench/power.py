"""`python -m tests.bench.power`: how much the gradient check sees, by 200 trials of each fault (about 8 minutes).

Leaves reports/evidence/power.json, the committed figures and their table in docs, and judges by configs/gates.toml.
"""

import sys
import time

import click

from andon.cli.bar import bar
from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text
from andon.verify.gradients import power
from tests.bench import tables

COMMAND = "python -m tests.bench.power"
SOURCES = ["tests/bench/power.py", "verify/gradients"]


@click.command(help=__doc__)
def main() -> None:
    """Measure, print, write, judge."""
    gates, sources, begun = load_gates(), digests(SOURCES), time.monotonic()
    with bar() as progress:
        rows = power.measure(progress=progress)
    click.echo(power.render(rows), nl=False)
    metrics = {row.fault: Metric(row.found / row.trials, "share") for row in rows}
    write_evidence(Evidence("power", COMMAND, time.monotonic() - begun, sources, metrics))
    content = {"command": COMMAND, "sources": sources, "rows": [row._asdict() for row in rows]}
    tables.write_baseline(tables.POWER, content)
    tables.rewrite_pages()
    verdict = judge("power", gates)
    click.echo(render_text(verdict), nl=False)
    sys.exit(verdict.exit_code)


if __name__ == "__main__":
    main()
