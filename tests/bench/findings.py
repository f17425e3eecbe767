"""`python -m tests.bench.findings`: what tracing finds in synthetic series, and what it finds in clean ones (a minute).

Stalls, slow-downs, causes, kinds of step and differences between runs are planted into series whose noise stays from
step to step. Leaves reports/evidence/findings.json, a baseline and a table, and judges by configs/gates.toml.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click

from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text
from andon.tracing.analysis.diff import rows
from andon.tracing.analysis.findings import Finding
from andon.tracing.analysis.kinds import kinds_of, labels, table_of
from andon.tracing.analysis.steps import Step
from tests.bench import tables
from tests.bench.machine import describe_machine
from tests.tracing.synthetic import CAUSES, DRIFT, WINDOW, agreement, analyzed, mixed, plain_steps, planted, times

COMMAND = "python -m tests.bench.findings"
SOURCES = ["tests/bench/findings.py", "tests/tracing/synthetic.py", "tracing"]
STEPS = 10_000
SHARES = (0.15, 0.4)
SEEDS = 3
RUNS = 100  # with a slow-down
MIXTURES = (0.02, 0.05, 0.1, 0.2, 0.3)
PAIRS = 20


class Row(NamedTuple):
    """What was found of how many."""

    what: str
    found: int
    of: int


def found_in(steps: Sequence[Step], kind: str) -> list[Finding]:
    """Findings of one kind."""
    return [each for each in analyzed(steps).findings if each.kind == kind]


def stalls() -> tuple[Row, Row]:
    """In clean steps, and of steps that take three times as long: one in each window but the first."""
    clean = sum(int(each.numbers["count"]) for each in found_in(plain_steps(STEPS, 0, drift=DRIFT), "train.stall"))
    own = set(range(WINDOW + 37, STEPS, WINDOW))
    steps = [times(each, 3.0 if each.number in own else 1.0) for each in plain_steps(STEPS, 1, drift=DRIFT)]
    found = own & {each.step for each in found_in(steps, "train.stall")}
    return Row("stalls in clean steps", clean, STEPS), Row("stalls of three times the time", len(found), len(own))


def slow_downs() -> tuple[Row, Row, Row]:
    """In clean windows, and within two windows of runs that become slower by a half, or twice as slow, at step 351."""
    clean = sum(len(found_in(plain_steps(1000, seed, drift=DRIFT), "train.slow_down")) for seed in range(20))

    def within_two(seed: int, factor: float) -> bool:
        steps = [times(each, factor if each.number > 350 else 1.0) for each in plain_steps(550, seed, drift=DRIFT)]
        return bool(found_in(steps, "train.slow_down"))

    half, twice = (sum(within_two(seed, factor) for seed in range(RUNS)) for factor in (1.5, 2.0))
    return (
        Row("slow-downs in clean windows", clean, 20 * 1000 // WINDOW),
        Row("slow-downs by a half, within two windows", half, RUNS),
        Row("slow-downs to twice the time, within two windows", twice, RUNS),
    )


def causes() -> Row:
    """Of planted causes those that a run's verdict names."""
    tried = [(cause, share, seed) for cause in CAUSES for share in SHARES for seed in range(SEEDS)]
    return Row(
        "causes at 15% and 40% of the time", sum(planted(*each).cause.name == each[0] for each in tried), len(tried)
    )


def kinds() -> tuple[Row, Row]:
    """Clean runs of one kind, and mixtures whose parts agree with those planted (adjusted Rand of 0.95)."""
    clean = sum(1 == len(kinds_of(plain_steps(600, seed, drift=DRIFT))) for seed in range(10))
    found = [mixed(600, share, 2.0, seed) for share in MIXTURES for seed in range(SEEDS)]
    parted = sum(agreement(labels(table_of(steps)[1]).tolist(), own) >= 0.95 for steps, own in found)
    return Row("clean runs of one kind", clean, 10), Row("mixtures taken apart", parted, len(found))


def differences() -> tuple[Row, Row]:
    """Pairs of equal runs that are red, and pairs with a forward pass 15% slower that name it."""

    def slower(seed: int, factor: float) -> list[str]:
        before, after = (plain_steps(400, seed + each, drift=DRIFT) for each in (0, 1000))
        return [
            row.name for row in rows(before, [times(each, factor, "forward") for each in after], 0.05) if row.slower
        ]

    equal = sum(bool(slower(seed, 1.0)) for seed in range(PAIRS))
    named = sum("forward" in slower(seed, 1.15) for seed in range(PAIRS))
    return Row("pairs of equal runs that are red", equal, PAIRS), Row("forward passes 15% slower", named, PAIRS)


def measured() -> dict[str, Row]:
    """Every row, by the name of its metric."""
    parts: list[tuple[tuple[str, ...], Callable[[], tuple[Row, ...]]]] = [
        (("stalls_false", "stalls_found"), stalls),
        (("slow_downs_false", "slow_downs_half", "slow_downs_twice"), slow_downs),
        (("causes_named",), lambda: (causes(),)),
        (("kinds_clean", "kinds_parted"), kinds),
        (("diff_false", "diff_found"), differences),
    ]
    return {name: row for names, part in parts for name, row in zip(names, part(), strict=True)}


@click.command(help=__doc__)
def main() -> None:
    """Plant, look, write, judge."""
    gates, sources, begun = load_gates(), digests(SOURCES), time.monotonic()
    found = measured()
    metrics = {name: Metric(row.found / row.of, "share") for name, row in found.items()}
    context = {"command": COMMAND, "machine": describe_machine(), "sources": sources}
    write_evidence(Evidence("findings", COMMAND, time.monotonic() - begun, sources, metrics))
    tables.write_baseline(tables.FINDINGS, {**context, "rows": [row._asdict() for row in found.values()]})
    tables.rewrite_pages()
    verdict = judge("findings", gates)
    click.echo(render_text(verdict), nl=False)
    sys.exit(verdict.exit_code)


if __name__ == "__main__":
    main()
