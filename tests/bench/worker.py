"""One measurement in a fresh process: `python -m tests.bench.worker IMPLEMENTATION TASK WORKLOAD OUTPUT`.

TASK is `time:N` for N timed steps between runs of their matrix products, `steps:N` for N timed steps alone, `memory`,
or `live` for the bytes of all tensors. OUTPUT gets the raw record as JSON; whoever asked does all arithmetic on it.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # building an optimizer imports it: it belongs to the imports, not to the step

from andon.verify.observation.tensor_memory import TensorMemory
from tests.bench.run import Run
from tests.bench.workload import Workload
from tests.bench.yardstick import build_yardstick

WARM_UP = 2
MEMORY_STEPS = 4
MEMORY_MAP = Path("/proc/self/statm")


def measure_time(run: Run, workload: Workload, repeats: int) -> dict[str, Any]:
    """The losses of the warm-up, and `repeats` steps, each between two runs of its matrix products."""
    multiply = build_yardstick(workload)
    losses = [next(run.steps).loss for _ in range(WARM_UP)]
    multiply()
    products, steps, phases = [_seconds(multiply)], [], []
    for _ in range(repeats):
        steps.append(_seconds(lambda: phases.append(next(run.steps).seconds)))
        products.append(_seconds(multiply))
    return {"losses": losses, "steps": steps, "products": products, "phases": phases}


def measure_steps(run: Run, workload: Workload, repeats: int) -> dict[str, Any]:
    """The losses of the warm-up, which compiles, `repeats` steps, and on a GPU the most bytes allocated at once."""
    losses = [next(run.steps).loss for _ in range(WARM_UP)]
    phases: list[dict[str, float]] = []
    steps = [_seconds(lambda: phases.append(next(run.steps).seconds)) for _ in range(repeats)]
    peak = torch.cuda.max_memory_allocated() if workload.device == "cuda" else None
    return {"losses": losses, "steps": steps, "phases": phases, "peak": peak}


def measure_memory(run: Run) -> dict[str, Any]:
    """Bytes: this process's peak after a few steps, and what of it is weights, gradients and optimizer state."""
    losses = [next(run.steps).loss for _ in range(MEMORY_STEPS)]
    weights = sum(parameter.nbytes for parameter in run.model.parameters())
    gradients = sum(parameter.nbytes for parameter in run.model.parameters() if parameter.requires_grad)
    states = run.optimizer.state.values()
    optimizer = sum(value.nbytes for state in states for value in state.values() if isinstance(value, torch.Tensor))
    return {"losses": losses, "peak": _peak(), "weights": weights, "gradients": gradients, "optimizer": optimizer}


def measure_live(run: Run) -> dict[str, Any]:
    """Bytes of all tensors at once, at the most, from what is alive before the first step on."""
    with TensorMemory(found for found in gc.get_objects() if isinstance(found, torch.Tensor)) as live:
        losses = [next(run.steps).loss for _ in range(MEMORY_STEPS)]
    return {"losses": losses, "live": live.peak}


def main(implementation: str, task: str, workload_json: str, output: str) -> None:
    """Measure, and write the record."""
    workload = Workload.from_json(workload_json)
    torch.set_num_threads(workload.threads)
    module = importlib.import_module(f"tests.bench.{implementation}")
    imported = _resident()
    run: Run = module.start(workload)
    name, _, repeats = task.partition(":")
    if name in ("memory", "live"):
        record = {"memory": measure_memory, "live": measure_live}[name](run)
    else:
        record = {"time": measure_time, "steps": measure_steps}[name](run, workload, int(repeats))
    record |= {"imported": imported, "torch": torch.__version__, "threads": torch.get_num_threads()}
    Path(output).write_text(json.dumps(record), encoding="utf-8")


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _peak() -> int | None:
    """Bytes of resident memory at most so far; None where the bench does not know how to ask."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if sys.platform == "linux" else None


def _resident() -> int | None:
    """Bytes of resident memory now."""
    if not MEMORY_MAP.exists():
        return None
    return int(MEMORY_MAP.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(*sys.argv[1:])
