"""`python -m tests.bench.door [--rounds N]`: what `andon verify -- python train.py` costs, in CPU time (10 minutes).

A script of 10.6 million parameters, alone for its first 20 steps and behind the door, in turn: seconds beyond those
steps. And watching alone: milliseconds a step, of steps that are watched in turn with steps that are not. Leaves
reports/evidence/door_cost.json, a baseline and a table, and judges by configs/gates.toml.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from andon.gates.clock import read_clock, usage
from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text
from tests.bench import tables
from tests.bench.door_tables import DOOR_COST
from tests.bench.machine import describe_machine
from tests.bench.tracing import cost

COMMAND = "python -m tests.bench.door"
SOURCES = ["andon/door", "tests/bench/door.py", "tests/bench/door_script.py", "tests/bench/door_steps.py", "verify"]
ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("door_script.py")
STEPS = 20  # the script's own, which it would take anyway
LONG = 100  # steps of a script that is longer than that
PAIRS = 500  # of steps, watched and not
EARLY = 64  # of them, in which more is looked at
STEP_SECONDS = 0.1


def cpu_seconds(words: Sequence[str]) -> float:
    """CPU of a Python command, its children included.

    Raises:
        subprocess.CalledProcessError: its exit code was not 0.
    """
    begun = os.times()
    own = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=folder, env=own)
    ended = os.times()
    return ended.children_user + ended.children_system - begun.children_user - begun.children_system


def whole(rounds: int) -> dict[str, float]:
    """Medians over rounds: the script's first steps alone, and what the door takes beyond them."""
    door = ("-m", "andon", "verify", "--", sys.executable, str(SCRIPT))
    runs: dict[str, list[float]] = {"alone": [], "short": [], "long": []}
    for _ in range(rounds):
        runs["alone"].append(cpu_seconds([str(SCRIPT), str(STEPS)]))
        runs["short"].append(cpu_seconds([*door, str(STEPS)]))
        runs["long"].append(cpu_seconds([*door, str(LONG)]))
    alone = statistics.median(runs["alone"])
    beyond = {
        name: statistics.median(seconds - own for seconds, own in zip(runs[name], runs["alone"], strict=True))
        for name in ("short", "long")
    }
    return {"alone": alone, **{f"{name}_beyond": value for name, value in beyond.items()}}


def watching(rounds: int) -> list[list[float]]:
    """Differences between watched steps and others, a list a process."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "tests.bench.door_steps", folder, str(PAIRS)]
        own = os.environ | {"OMP_NUM_THREADS": "1"}
        done = [subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=own) for _ in range(rounds)]
    return [json.loads(each.stdout) for each in done]


def costs(differences: Sequence[list[float]]) -> dict[str, Any]:
    """Milliseconds a step: of all, of the first, of those after them."""
    parts = {
        "all": [value for each in differences for value in each],
        "early": [value for each in differences for value in each[:EARLY]],
        "later": [value for each in differences for value in each[EARLY:]],
    }
    return {name: cost(values)._asdict() for name, values in parts.items()}


@click.command(help=__doc__)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Fresh processes of each kind."
)
def main(rounds: int) -> None:
    """Measure, write, judge."""
    gates, sources, begun, clock = load_gates(), digests(SOURCES), time.monotonic(), read_clock()
    steps, seconds = costs(watching(rounds)), whole(rounds)
    share = steps["all"]["mean"] / 1e3 / STEP_SECONDS
    metrics = {
        "share_of_step": Metric(share, "share"),
        "seconds_beyond": Metric(max(seconds["short_beyond"], seconds["long_beyond"]), "s"),
    }
    others, command = usage(clock, read_clock()).others_share, f"{COMMAND} --rounds {rounds}"
    context = {"command": command, "machine": describe_machine(), "others_share": others, "sources": sources}
    write_evidence(Evidence("door_cost", command, time.monotonic() - begun, sources, metrics))
    tables.write_baseline(DOOR_COST, {**context, "rounds": rounds, "watching": steps, "whole": seconds})
    tables.rewrite_pages()
    verdict = judge("door_cost", gates)
    click.echo(render_text(verdict), nl=False)
    sys.exit(verdict.exit_code)


if __name__ == "__main__":
    main()
