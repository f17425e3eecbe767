"""Every gate goes red: each measure on a planted tree, each threshold and each budget at its edges.

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
from typing import Any

from andon.gates.config import GateError, Gates, Measure, Plant, Plants, Threshold, Tier, read_table
from andon.gates.evidence import Evidence, Metric, write_evidence
from andon.gates.judge import judge
from andon.gates.run import SIDE_BY_SIDE
from andon.gates.selftest.injection import plant_and_run

TABLE = Path("reports/baselines/selftest.json")


@dataclass(frozen=True)
class Seen:
    """One gate of the table: whether it was seen red, on what, and the digest of the definition it was seen with."""

    kind: str  # measure, threshold, budget
    name: str
    tier: str
    planted: str
    red: bool
    definition: str
    seconds: float = 0.0
    said: str = ""  # where it was not red as it should be: what was seen instead


@dataclass(frozen=True)
class Gate:
    """One gate that must go red, and how to see it so."""

    kind: str
    name: str
    tier: str
    definition: str
    look: Callable[[], Seen]


def gates_to_test(gates: Gates) -> list[Gate]:
    """Every measure, threshold and budget of a gates file.

    Raises:
        GateError: a plant of no measure, or a plants' file that cannot be read.
    """
    plants = read_plants(gates)
    return [
        *(
            _measure(measure, [each for each in plants if each.measure == measure.name], gates)
            for measure in gates.measures
        ),
        *(_threshold(threshold, gates) for threshold in gates.thresholds),
        *(_budget(tier) for tier in gates.tiers if tier.budget_seconds),
    ]


def read_plants(gates: Gates) -> list[Plant]:
    """The plants of a gates file; none where it names no file of them.

    Raises:
        GateError: the file cannot be read, or a plant names no measure.
    """
    if not gates.plants:
        return []
    path = Path(gates.plants)
    plants = read_table(path, Plants, "correct `plants` in the gates file").plants
    names = [measure.name for measure in gates.measures]
    for plant in plants:
        if plant.measure not in names:
            raise GateError(f"{path}: measure={plant.measure!r} is no measure; known are {', '.join(names)}")
    return plants


def look(chosen: Sequence[Gate], note: Callable[[Seen], None]) -> list[Seen]:
    """See each gate red, two at a time; `note` is called with each as it ends."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        futures = [pool.submit(gate.look) for gate in chosen]
        for future in futures:
            note(future.result())
    return [future.result() for future in futures]


def unseen(known: Sequence[Gate], table: Sequence[Seen]) -> list[Gate]:
    """The gates that the table does not hold red as they are defined now."""
    red = {(seen.kind, seen.name, seen.tier, seen.definition) for seen in table if seen.red}
    return [gate for gate in known if (gate.kind, gate.name, gate.tier, gate.definition) not in red]


def merged(known: Sequence[Gate], table: Sequence[Seen], new: Sequence[Seen]) -> list[Seen]:
    """The table with what was seen now, in the gates' order, without what is no gate any more."""
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
        return [Seen(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise GateError(f"{path} is no table of a self-test ({error}); `andon gate selftest` writes it") from error


def write_seen(table: Sequence[Seen], path: Path = TABLE) -> None:
    """Write the table, a row a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    rows = ",\n".join("  " + json.dumps(asdict(seen), ensure_ascii=False) for seen in table)
    temporary.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    temporary.replace(path)


# ------------------------------------------------------------------------------------------------ measures
def _measure(measure: Measure, plants: list[Plant], gates: Gates) -> Gate:
    bounds = [each for each in gates.thresholds if each.metric.partition(".")[0] == measure.name]
    edges_of = [[each.metric, each.operator, each.value] for each in bounds]
    definition = _digest([measure.command, measure.environment, *edges_of, *(plant.model_dump() for plant in plants)])
    gate = ("measure", measure.name, measure.tier)

    def look() -> Seen:
        begun, found = time.perf_counter(), [plant_and_run(plant, measure, bounds) for plant in plants]
        said = "; ".join(text for text in found if text) or ("" if plants else "it has no plant")
        files = ", ".join(plant.file or plant.where for plant in plants)
        return Seen(*gate, files, not said, definition, round(time.perf_counter() - begun, 1), said)

    return Gate(*gate, definition, look)


# -------------------------------------------------------------------------------------- thresholds, budgets
def _threshold(threshold: Threshold, gates: Gates) -> Gate:
    tier = gates.tier(threshold.tier)
    definition = _digest([threshold.operator, threshold.value, tier.strict])
    gate = ("threshold", threshold.metric, threshold.tier)
    name, _, key = threshold.metric.partition(".")
    rules = Gates(tiers=[tier.model_copy(update={"includes": "", "budget_seconds": None})], thresholds=[threshold])

    def look() -> Seen:
        wrong = []
        for value, state in [*edges(threshold.operator, threshold.value), (None, _null(tier))]:
            with tempfile.TemporaryDirectory(prefix="andon-selftest-") as folder:
                write_evidence(Evidence(name, "", 0.0, {}, {key: Metric(value)}), Path(folder))
                found = judge(tier.name, rules, Path(folder)).checks[0].state
            wrong += [f"{value!r} is {found}, not {state}"] * (found != state)
        return Seen(*gate, f"just inside, just outside {threshold.operator} {threshold.value:g}, null", not wrong,
                    definition, said="; ".join(wrong))  # fmt: skip

    return Gate(*gate, definition, look)


def _budget(tier: Tier) -> Gate:
    budget = tier.budget_seconds or 0.0
    definition = _digest([budget, tier.strict])
    gate = ("budget", "budget", tier.name)
    rules = Gates(tiers=[tier.model_copy(update={"includes": ""})])

    def look() -> Seen:
        wrong = []
        for wall, state in [*edges("<=", budget), (None, _null(tier))]:
            with tempfile.TemporaryDirectory(prefix="andon-selftest-") as folder:
                clock = {"wall_seconds": wall, "cpu_seconds": wall, "others_share": 0.0}
                metrics = {key: Metric(value) for key, value in clock.items()}
                write_evidence(Evidence(tier.name, "", 0.0, {}, metrics), Path(folder))
                found = judge(tier.name, rules, Path(folder)).checks[0].state
            wrong += [f"{wall!r} is {found}, not {state}"] * (found != state)
        return Seen(*gate, f"just inside, just beyond {budget:g} s, null", not wrong, definition, said="; ".join(wrong))

    return Gate(*gate, definition, look)


def edges(operator: str, value: float) -> Iterator[tuple[float, str]]:
    """The floats next to a threshold's edge, each with the state that it must have."""
    below, above = math.nextafter(value, -math.inf), math.nextafter(value, math.inf)
    passing = {"<": [below], "<=": [below, value], "==": [value], ">=": [value, above], ">": [above]}[operator]
    for each in (below, value, above):
        yield each, "pass" if each in passing else "red"


def _null(tier: Tier) -> str:
    return "red" if tier.strict else "not measured"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
