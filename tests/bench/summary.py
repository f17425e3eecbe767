"""From raw records to the committed figures: ratios with intervals first, absolute times as context."""

import statistics
from dataclasses import asdict
from typing import Any

from andon.gates.evidence import Metric
from tests.bench.environments import OURS
from tests.bench.measure import NAMES, Measured
from tests.bench.ratios import geometric_mean, over_products, paired
from tests.bench.workload import Workload, product_flops

STATE = ("weights", "gradients", "optimizer")


def summarize(measured: Measured, workload: Workload) -> dict[str, Any]:
    """The measurements as plain data: times in seconds, memory in bytes.

    `over_products`: a step over its own matrix products. `ours_over`: our step over theirs, both in units of the
    products measured around each, paired within a round. `seconds`: medians over rounds of medians over steps.
    """
    ratios = {
        name: [over_products(record["steps"], record["products"]) for record in measured.times[name]] for name in NAMES
    }
    memory = {name: memory_parts(measured.memories[name]) for name in NAMES}
    peers = [name for name in NAMES if name != OURS]
    return {
        "workload": asdict(workload),
        "product_gflop": product_flops(workload) / 1e9,
        "torch": measured.times[OURS][0]["torch"],
        "rounds": len(measured.times[OURS]),
        "steps_a_round": len(measured.times[OURS][0]["steps"]),
        "over_products": {name: geometric_mean(ratios[name])._asdict() for name in NAMES},
        "ours_over": {name: paired(ratios[OURS], ratios[name])._asdict() for name in peers},
        "memory_over": {name: share(memory[OURS]["own"], memory[name]["own"]) for name in peers},
        "help_seconds": statistics.median(measured.help_seconds),
        "seconds": {name: seconds_of(measured.times[name]) for name in NAMES},
        "memory": memory,
    }


def metrics(summary: dict[str, Any]) -> dict[str, Metric]:
    """What `configs/gates.toml` sets thresholds on."""
    faster = {f"step_vs_{name}_upper": Metric(interval["high"], "x") for name, interval in summary["ours_over"].items()}
    return {
        "step_over_products": Metric(summary["over_products"][OURS]["ratio"], "x"),
        **faster,
        "memory_vs_huggingface": Metric(summary["memory_over"]["huggingface"], "x"),
        "help_seconds": Metric(summary["help_seconds"], "s"),
    }


def seconds_of(records: list[dict[str, Any]]) -> dict[str, float]:
    """Of a step, its phases and its products."""

    def median(pick: Any) -> float:
        return statistics.median(statistics.median(pick(record)) for record in records)

    phases = {
        phase: median(lambda record, phase=phase: [step[phase] for step in record["phases"]])
        for phase in records[0]["phases"][0]
    }
    return {
        "step": median(lambda record: record["steps"]),
        "products": median(lambda record: record["products"]),
    } | phases


def memory_parts(records: list[dict[str, Any]]) -> dict[str, float | None]:
    """Medians over rounds; `own` is what a step takes beyond what it must hold."""
    parts = ("peak", "imported", *STATE)
    if any(record[part] is None for record in records for part in parts):
        return dict.fromkeys((*parts, "own"))
    own = [record["peak"] - record["imported"] - sum(record[part] for part in STATE) for record in records]
    medians = {part: statistics.median(record[part] for record in records) for part in parts}
    return medians | {"own": statistics.median(own)}


def share(ours: float | None, theirs: float | None) -> float | None:
    """Ours over theirs; None where either was not measured."""
    return ours / theirs if ours and theirs else None
