"""`python -m tests.bench.suite`: CPU seconds of the suite on our tiny subject, tier by tier, beyond importing torch.

Each in a fresh process of one thread, as a user calls it; leaves reports/evidence/suite.json. Exit code: 0 within the
budgets of configs/gates.toml, 1 above.
"""

import os
import statistics
import subprocess
import sys
import time

import click

from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text

COMMAND = "python -m tests.bench.suite"
SUBJECT = "tests.subjects:llama"
SOURCES = ["andon", "core", "tests/bench/suite.py", "tests/subjects.py", "verify"]
IMPORTS = 3  # of torch, of which the median counts
TIERS = {"seconds_tier1": 1, "seconds_tier2": 2, "seconds": 3}


def seconds(*arguments: str) -> float:
    """CPU seconds of this Python with some arguments, and of the processes that it waited for.

    Raises:
        subprocess.CalledProcessError: its exit code was not 0.
    """
    begun = os.times()
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=one_thread)
    ended = os.times()
    return ended.children_user + ended.children_system - begun.children_user - begun.children_system


@click.command(help=__doc__)
def main() -> None:
    """Measure, judge, leave evidence."""
    gates, sources, begun = load_gates(), digests(SOURCES), time.monotonic()
    torch = statistics.median(seconds("-c", "import torch") for _ in range(IMPORTS))
    taken = {
        name: seconds("-m", "andon", "verify", SUBJECT, "--tier", str(tier)) - torch for name, tier in TIERS.items()
    }
    metrics = {name: Metric(value, "s") for name, value in taken.items()}
    write_evidence(Evidence("suite", COMMAND, time.monotonic() - begun, sources, metrics))
    verdict = judge("suite", gates)
    click.echo(render_text(verdict), nl=False)
    sys.exit(verdict.exit_code)


if __name__ == "__main__":
    main()
