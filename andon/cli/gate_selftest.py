"""`andon gate selftest`: see every gate go red, and keep the table of it."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.cli.verdicts import config_option

if TYPE_CHECKING:
    from andon.gates.selftest.selftest import Gate, Seen


@click.command("selftest")
@click.option("--only", multiple=True, metavar="NAME", help="This measure or threshold; may be repeated.")
@click.option("--changed", is_flag=True, help="Only what the table does not hold red as it is defined now.")
@click.option(
    "--check", is_flag=True, help="Inject nothing: check that the table is current and that each threshold still works."
)
@config_option
def selftest_command(only: tuple[str, ...], config: Path | None, *, changed: bool, check: bool) -> None:
    """Check that every gate can go red: measures by injected faults, thresholds and budgets by values at their edges.

    Each measure runs on a copy of this tree with a fault in it. Results are kept in reports/baselines/selftest.json,
    keyed by the definitions. Exit codes: 0 all went red, 1 some did not, 2 usage.

    \b
    Examples:
      andon gate selftest
      andon gate selftest --only lint --only coverage.lines
      andon gate selftest --changed
    """
    from andon import gates
    from andon.gates.selftest import selftest

    begun = time.monotonic()
    path = config or gates.find_config()
    rules = gates.load_gates(path)
    sources = gates.digests([str(path), *([rules.faults] if rules.faults else []), str(selftest.TABLE)])
    known, table = selftest.gates_to_test(rules), selftest.read_seen()
    chosen = _named(known, only)
    if changed:
        chosen = [gate for gate in chosen if gate in selftest.unseen(known, table)]
    if check:
        chosen = [gate for gate in chosen if gate.kind != "measure"]
    seen = selftest.run(chosen, show)
    broken = sum(not each.red for each in seen) if check else 0  # else the table says it
    if not check:
        table = selftest.merged(known, table, seen)
        selftest.write_seen(table)
        sources = gates.digests(sources)
    left = [f"{gate.kind} {gate.name} ({gate.tier})" for gate in selftest.unseen(known, table)]
    leave(known, len(left) + broken, sources, time.monotonic() - begun)
    click.echo(summary(known, left, time.monotonic() - begun))
    sys.exit(bool(left or broken))


def _named(known: "Sequence[Gate]", only: Sequence[str]) -> "list[Gate]":
    """The gates of these names; all where none is given.

    Raises:
        UsageError: a name is not a gate's.
    """
    for name in only:
        if all(gate.name != name for gate in known):
            raise click.UsageError(f"--only {name} names no measure or threshold; `andon gate list` shows them")
    return [gate for gate in known if not only or gate.name in only]


def show(seen: "Seen") -> None:
    """Print what a measure did, and of the others what is wrong."""
    if seen.kind == "measure" or not seen.red:
        state = "red, as it should be" if seen.red else f"NOT RED: {seen.problem}"
        click.echo(f"  {seen.name:<12} {seen.seconds:6.1f} s  {seen.tried}: {state}")


def leave(known: "Sequence[Gate]", unseen: int, sources: dict[str, str], seconds: float) -> None:
    """Leave the counts as evidence."""
    from andon import gates

    metrics = {
        "gates": gates.Metric(len(known), "gates"),
        "unseen": gates.Metric(unseen, "gates"),
        "seen_share": gates.Metric(100 * (len(known) - unseen) / len(known) if known else None, "%"),
    }
    gates.write_evidence(gates.Evidence("selftest", "andon gate selftest", seconds, sources, metrics))


def summary(known: "Sequence[Gate]", left: Sequence[str], seconds: float) -> str:
    """The answer in a line, and what is missing with the command that sees it."""
    counts = {kind: sum(gate.kind == kind for gate in known) for kind in ("measure", "threshold", "budget")}
    parts = ", ".join(f"{count} {kind}s" for kind, count in counts.items())
    if not left:
        return f"every gate went red: {parts} ({seconds:.0f} s)"
    lines = "\n".join(f"  {gate}" for gate in left)
    return f"never red as defined now, of {parts}:\n{lines}\nnext: andon gate selftest --changed"
