"""Every gate goes red: each measure on a tree with an injected fault, each threshold and budget at its edges.

A measure runs on a copy of the tree with a fault in it (`injection`). A threshold is judged on values just inside,
just outside and null. What was seen is kept in a table keyed by the definitions: change one, and its row is stale.
"""

import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from andon.files import write_whole
from andon.gates.config import GateError, Gates, InjectedFault, InjectedFaults, Measure, Threshold, Tier, read_table
from andon.gates.evidence import EXIT_CODE, Evidence, Metric, run_record, write_evidence
from andon.gates.judge import judge
from andon.gates.run import SIDE_BY_SIDE
from andon.gates.selftest.injection import inject_and_run
from andon.reading import read_json

TABLE = Path("reports/baselines/selftest.json")


@dataclass(frozen=True)
class Seen:
    """One gate of the table: whether it was seen red, on what, and the digest of the definition it was seen with."""

    kind: str  # measure, threshold, budget
    name: str
    tier: str
    tried: str  # the files that faults were injected into, or the values that were judged
    red: bool
    definition: str
    seconds: float = 0.0
    problem: str = ""  # why it was not red as it should be


@dataclass(frozen=True)
class Gate:
    """One gate that must go red, and the function that checks that it does."""

    kind: str
    name: str
    tier: str
    definition: str
    run: Callable[[], Seen]


def gates_to_test(gates: Gates) -> list[Gate]:
    """Every measure, threshold and budget of a gates file.

    Raises:
        GateError: an injected fault names no measure, or the file of faults cannot be read.
    """
    faults = read_faults(gates)
    return [
        *(
            _measure(measure, [each for each in faults if each.measure == measure.name], gates)
            for measure in gates.measures
        ),
        *(_threshold(threshold, gates) for threshold in gates.thresholds),
        *(_budget(tier) for tier in gates.tiers if tier.budget_seconds),
    ]


def read_faults(gates: Gates) -> list[InjectedFault]:
    """The injected faults of a gates file; none where it names no file of them.

    Raises:
        GateError: the file cannot be read, or a fault names no measure.
    """
    if not gates.faults:
        return []
    path = Path(gates.faults)
    faults = read_table(path, InjectedFaults, "correct `faults` in the gates file").faults
    names = [measure.name for measure in gates.measures]
    for fault in faults:
        if fault.measure not in names:
            raise GateError(f"{path}: measure={fault.measure!r} is not a measure; known are {', '.join(names)}")
    return faults


def run(chosen: Sequence[Gate], note: Callable[[Seen], None]) -> list[Seen]:
    """Check that each gate goes red, two at a time; `note` is called with each result."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        futures = [pool.submit(gate.run) for gate in chosen]
        for future in futures:
            note(future.result())
    return [future.result() for future in futures]


def unseen(known: Sequence[Gate], table: Sequence[Seen]) -> list[Gate]:
    """The gates that the table does not hold red as they are defined now."""
    red = {(seen.kind, seen.name, seen.tier, seen.definition) for seen in table if seen.red}
    return [gate for gate in known if (gate.kind, gate.name, gate.tier, gate.definition) not in red]


def merged(known: Sequence[Gate], table: Sequence[Seen], new: Sequence[Seen]) -> list[Seen]:
    """The table with the new results, in the gates' order, without gates that no longer exist."""
    rows = {(seen.kind, seen.name, seen.tier): seen for seen in [*table, *new]}
    return [rows[key] for gate in known if (key := (gate.kind, gate.name, gate.tier)) in rows]


def read_seen(path: Path = TABLE) -> list[Seen]:
    """The committed table; empty where there is none.

    Raises:
        GateError: it is something else.
    """
    if not path.exists():
        return []
    try:
        return [Seen(**row) for row in read_json(path)]
    except (ValueError, TypeError) as error:
        raise GateError(
            f"{path} is not a table of self-test results ({error}); `andon gate selftest` writes it"
        ) from error


def write_seen(table: Sequence[Seen], path: Path = TABLE) -> None:
    """Write the table, a row per line, whole or not at all."""
    rows = ",\n".join("  " + json.dumps(asdict(seen), ensure_ascii=False) for seen in table)
    write_whole(path, f"[\n{rows}\n]\n")


# ------------------------------------------------------------------------------------------------ measures
def _measure(measure: Measure, faults: list[InjectedFault], gates: Gates) -> Gate:
    bounds = [each for each in gates.thresholds if each.metric.partition(".")[0] == measure.name]
    edges_of = [[each.metric, each.operator, each.value] for each in bounds]
    definition = _digest([measure.command, measure.environment, *edges_of, *(fault.model_dump() for fault in faults)])
    gate = ("measure", measure.name, measure.tier)

    def run() -> Seen:
        begun, found = time.perf_counter(), [inject_and_run(fault, measure, bounds) for fault in faults]
        problem = "; ".join(text for text in found if text) or ("" if faults else "no fault is defined for it")
        files = ", ".join(fault.file or fault.where for fault in faults)
        return Seen(*gate, files, not problem, definition, round(time.perf_counter() - begun, 1), problem)

    return Gate(*gate, definition, run)


# -------------------------------------------------------------------------------------- thresholds, budgets
def _threshold(threshold: Threshold, gates: Gates) -> Gate:
    tier = gates.tier(threshold.tier)
    definition = _digest([threshold.operator, threshold.value, tier.strict])
    gate = ("threshold", threshold.metric, threshold.tier)
    name, _, key = threshold.metric.partition(".")
    file = run_record(name) if key == EXIT_CODE else name  # as the judge reads it
    rules = Gates(tiers=[tier.model_copy(update={"includes": "", "budget_seconds": None})], thresholds=[threshold])

    def run() -> Seen:
        wrong = []
        for value, state in [*edges(threshold.operator, threshold.value), (None, _null(tier))]:
            with tempfile.TemporaryDirectory(prefix="andon-selftest-") as folder:
                write_evidence(Evidence(file, "", 0.0, {}, {key: Metric(value)}), Path(folder))
                found = judge(tier.name, rules, Path(folder)).checks[0].state
            wrong += [f"{value!r} is {found}, not {state}"] * (found != state)
        return Seen(*gate, f"just inside, just outside {threshold.operator} {threshold.value:g}, null", not wrong,
                    definition, problem="; ".join(wrong))  # fmt: skip

    return Gate(*gate, definition, run)


def _budget(tier: Tier) -> Gate:
    budget = tier.budget_seconds or 0.0
    definition = _digest([budget, tier.strict])
    gate = ("budget", "budget", tier.name)
    rules = Gates(tiers=[tier.model_copy(update={"includes": ""})])

    def run() -> Seen:
        wrong = []
        for wall, state in [*edges("<=", budget), (None, _null(tier))]:
            with tempfile.TemporaryDirectory(prefix="andon-selftest-") as folder:
                clock = {"wall_seconds": wall, "cpu_seconds": wall, "others_share": 0.0}
                metrics = {key: Metric(value) for key, value in clock.items()}
                write_evidence(Evidence(tier.name, "", 0.0, {}, metrics), Path(folder))
                found = judge(tier.name, rules, Path(folder)).checks[0].state
            wrong += [f"{wall!r} is {found}, not {state}"] * (found != state)
        return Seen(
            *gate, f"just inside, just beyond {budget:g} s, null", not wrong, definition, problem="; ".join(wrong)
        )

    return Gate(*gate, definition, run)


def edges(operator: str, value: float) -> Iterator[tuple[float, str]]:
    """The floats next to a threshold's edge, each with the state that it must have."""
    below, above = math.nextafter(value, -math.inf), math.nextafter(value, math.inf)
    passing = {"<": [below], "<=": [below, value], "==": [value], ">=": [value, above], ">": [above]}[operator]
    for each in (below, value, above):
        yield each, "pass" if each in passing else "red"


def _null(tier: Tier) -> str:
    return "red" if tier.strict else "not measured"


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
