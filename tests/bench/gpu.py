"""`python -m tests.bench.gpu`: our step on a GPU, beside Hugging Face's under torch.compile, and QLoRA of 7B.

`124m`: bfloat16 autocast, 16 x 1024. `7b`: NF4, adapters of rank 64, 1 x 512, activation checkpointing. Writes
reports/baselines/bench_gpu.json, evidence and its table in docs. Without a CUDA device every figure is "not measured".
Hugging Face is measured where transformers can be imported. Exit code: 0 every figure reached, 1 one missed, 3 could
not measure.
"""

import statistics
import sys
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from andon.core.config import load_config
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from tests.bench import tables
from tests.bench.environments import OURS, BenchError, worker_variables
from tests.bench.machine import describe_machine
from tests.bench.measure import SOURCES, check_alike, run_worker, shipped_workload
from tests.bench.ratios import paired
from tests.bench.utilization import FORMULA, flops_a_token, peak_flops, utilization
from tests.bench.workload import Workload

COMMAND = "nox -s bench_gpu"
OURS_COMPILED, PEER_COMPILED = "Andon, torch.compile", "Hugging Face, torch.compile"
VARIANTS = {"Andon": (OURS, False), OURS_COMPILED: (OURS, True), PEER_COMPILED: ("huggingface", True)}
UNITS = {
    "model_flops_utilization": "share",
    "step_vs_huggingface_upper": "x",
    "peak_bytes": "B",
    "qlora_7b_peak_bytes": "B",
}
LEAST_UTILIZATION = 0.40
LARGEST_7B = 6.0e9  # bytes
ROUNDS, STEPS = 4, 20
SAME_LOSS = 2e-2  # relative: bfloat16 rounds at 4e-3, and each library in places of its own


def main() -> int:
    """Measure where there is a GPU, write, judge."""
    begun, sources = time.monotonic(), digests(SOURCES)
    device = device_name()
    try:
        content = measure_gpu(device) if device else None
    except BenchError as error:
        click.echo(f"could not measure: {error}", err=True)
        content = None
    found = figures(content)
    metrics = {name: Metric(found[name], unit) for name, unit in UNITS.items()}
    write_evidence(Evidence("bench_gpu", COMMAND, time.monotonic() - begun, sources, metrics))
    if content is None:
        click.echo("not measured" if device else "not measured: no CUDA device")
        return 3
    tables.write_baseline(tables.BENCH_GPU, content | {"sources": sources})
    tables.rewrite_pages()
    click.echo(tables.gpu(content))
    return judge(found)


def device_name() -> str | None:
    """The first CUDA device, if there is one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def measure_gpu(device: str) -> dict[str, Any]:
    """Each variant in turn, in fresh processes, as plain data: seconds, bytes, ratios.

    Raises:
        BenchError: a worker failed, or the variants did not train alike.
    """
    workload = replace(shipped_workload(), rows=16, length=1024, device="cuda", dtype="bfloat16")
    variables = worker_variables(workload.threads)
    variants = {label: pair for label, pair in VARIANTS.items() if pair[0] == OURS or find_spec("transformers")}
    records: dict[str, list[dict[str, Any]]] = {label: [] for label in variants}
    for turn in range(ROUNDS):
        for label, (name, compiled) in variants.items():
            click.echo(f"round {turn + 1} of {ROUNDS}: {label}", err=True)
            task, work = f"steps:{STEPS}", replace(workload, compile=compiled)
            records[label].append(run_worker(name, Path(sys.executable), task, work, variables))
    check_alike(records, SAME_LOSS)
    click.echo("QLoRA of 7b", err=True)
    large = workload_7b()
    qlora = run_worker(OURS, Path(sys.executable), f"steps:{STEPS}", large, variables)
    steps = {label: [statistics.median(record["steps"]) for record in each] for label, each in records.items()}
    return {
        "command": COMMAND,
        "machine": describe_machine(),
        "device": device,
        "torch": version("torch"),
        "transformers": version("transformers") if PEER_COMPILED in variants else None,
        "workload": asdict(workload),
        "formula": FORMULA,
        "flops_a_token": flops_a_token(workload),
        "peak_flops": peak_flops(device),
        "ours_over_huggingface": paired(steps[OURS_COMPILED], steps[PEER_COMPILED])._asdict()
        if PEER_COMPILED in variants
        else None,
        "qlora_7b": {
            "workload": asdict(large),
            "step_seconds": (seconds := statistics.median(qlora["steps"])),
            "tokens_per_second": large.tokens / seconds,
            "peak_bytes": qlora["peak"],
            "losses": qlora["losses"],
        },
        "implementations": {
            label: {
                "step_seconds": (step := statistics.median(steps[label])),
                "tokens_per_second": workload.tokens / step,
                "model_flops_utilization": utilization(workload, step, device),
                "peak_bytes": statistics.median(record["peak"] for record in each),
                "phases": {
                    phase: statistics.median(seconds[phase] for record in each for seconds in record["phases"])
                    for phase in each[0]["phases"][0]
                },
            }
            for label, each in records.items()
        },
    }


def workload_7b() -> Workload:
    """QLoRA of `configs/7b.toml` as `andon plan` counts it: one row of 512 tokens, rank 64."""
    config = load_config(Path("configs/7b.toml"))
    return Workload(
        config.model.model_dump(exclude_none=True),
        rows=1,
        length=512,
        device="cuda",
        dtype="bfloat16",
        method="qlora",
        rank=config.qlora.rank,
        checkpointing=True,
    )


def figures(content: dict[str, Any] | None) -> dict[str, float | None]:
    """The evidence's values; None for each that was not measured."""
    if content is None:
        return dict.fromkeys(UNITS)
    ours, beside = content["implementations"][OURS_COMPILED], content["ours_over_huggingface"]
    return {
        "model_flops_utilization": ours["model_flops_utilization"],
        "step_vs_huggingface_upper": beside["high"] if beside else None,
        "peak_bytes": ours["peak_bytes"],
        "qlora_7b_peak_bytes": content["qlora_7b"]["peak_bytes"],
    }


def judge(found: dict[str, float | None]) -> int:
    """Print the verdict of each figure, and return the exit code."""
    mfu, slower = found["model_flops_utilization"], found["step_vs_huggingface_upper"]
    large = found["qlora_7b_peak_bytes"]
    verdicts: dict[str, bool | None] = {
        f"model FLOPs utilization, {FORMULA}: {mfu} (must be >= {LEAST_UTILIZATION})": None
        if mfu is None
        else mfu >= LEAST_UTILIZATION,
        f"our step over Hugging Face's, upper bound of 95%: {slower} (must be < 1)": None
        if slower is None
        else slower < 1,
        f"QLoRA of 7b, most bytes allocated at once: {large} (must be <= {LARGEST_7B:.0f})": None
        if large is None
        else large <= LARGEST_7B,
    }
    words = {True: "pass", False: "RED", None: "NOT MEASURED"}
    for line, reached in verdicts.items():
        click.echo(f"{words[reached]}  {line}")
    if False in verdicts.values():
        return 1
    return 3 if None in verdicts.values() else 0


if __name__ == "__main__":
    sys.exit(main())
