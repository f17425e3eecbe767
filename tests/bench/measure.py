"""Run the workers: implementations in turn, each measurement in a fresh process, none beside another."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from andon.core.config import load_config
from tests.bench.environments import OURS, BenchError, interpreter, worker_variables
from tests.bench.ratios import over_products
from tests.bench.workload import Workload

CONFIG = "configs/124m.toml"
SOURCES = ("andon", "core", "tests/bench", CONFIG)
NAMES = (OURS, "huggingface", "litgpt")
SAME_LOSS = 1e-4  # relative; float32 sums in another order differ by about 1e-6
HELP_RUNS = 11

Records = dict[str, list[dict[str, Any]]]  # by implementation, an entry a round


class Job(NamedTuple):
    """One process: who trains what, and what is measured of it, as the worker spells it."""

    implementation: str
    task: str
    method: str = "full"


class Measured(NamedTuple):
    """Raw records, and seconds of each `andon --help`."""

    times: Records
    memories: Records
    help_seconds: list[float]


def shipped_workload() -> Workload:
    """A step of the shape in `configs/124m.toml`, every default spelled out: libraries have defaults of their own."""
    return Workload(load_config(Path(CONFIG)).model.model_dump(exclude_none=True))


def schedule(rounds: int, repeats: int, memory_rounds: int) -> list[Job]:
    """A B C A B C: what drifts on the machine then meets all alike."""
    timed = [Job(name, f"time:{repeats}") for _ in range(rounds) for name in NAMES]
    return timed + [Job(name, "memory") for _ in range(memory_rounds) for name in NAMES]


def measure(workload: Workload, jobs: list[Job], say: Callable[[str], None]) -> Measured:
    """Everything that the bench's figures come from.

    Raises:
        BenchError: an environment could not be built, a worker failed, or the implementations did not train alike.
    """
    records = take(workload, jobs, say)
    times = {job.implementation: each for job, each in records.items() if job.task != "memory"}
    memories = {job.implementation: each for job, each in records.items() if job.task == "memory"}
    check_alike({name: times[name] + memories[name] for name in NAMES}, SAME_LOSS)
    return Measured(times, memories, list(_help_seconds(worker_variables(workload.threads))))


def take(workload: Workload, jobs: list[Job], say: Callable[[str], None]) -> dict[Job, list[dict[str, Any]]]:
    """Each job's records, in the order of its rounds.

    Raises:
        BenchError: an environment could not be built, or a worker failed.
    """
    pythons = {name: interpreter(name, say) for name in dict.fromkeys(job.implementation for job in jobs)}
    variables = worker_variables(workload.threads)
    records: dict[Job, list[dict[str, Any]]] = {job: [] for job in jobs}
    begun = time.monotonic()
    for done, job in enumerate(jobs, start=1):
        name, work = job.implementation, replace(workload, method=job.method)
        record = run_worker(name, pythons[name], job.task, work, variables)
        records[job].append(record)
        left = int((time.monotonic() - begun) / done * (len(jobs) - done))
        label = f"{name} {job.method}"
        say(f"{done:>3} of {len(jobs)}  {label:<16} {_glance(record):<44} {left // 60}:{left % 60:02} left")
    return records


def run_worker(name: str, python: Path, task: str, workload: Workload, variables: dict[str, str]) -> dict[str, Any]:
    """The record of one fresh process.

    Raises:
        BenchError: it failed; the message holds the end of what it printed.
    """
    arguments = ["tests.bench.worker", name, task, workload.to_json()]
    return run_module(f"{name}, {task}", python, arguments, variables)


def run_module(what: str, python: Path, arguments: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """The record that a module of ours writes into the file which is its last argument.

    Raises:
        BenchError: it failed; the message holds the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "record.json"
        command = [str(python), "-m", *arguments, str(output)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise BenchError(f"{what}: the worker ended with {done.returncode}:\n{tail}")
        return json.loads(output.read_text(encoding="utf-8"))


def check_alike(records: Records, tolerance: float) -> None:
    """Refuse to compare what is not the same training: torch, threads, and the loss of each step before timing.

    The losses agree only where shape, weights, batch, clipping and optimizer do.

    Raises:
        BenchError: they differ; the message holds both.
    """
    first_name, first = next((name, each[0]) for name, each in records.items())
    for name, record in ((name, record) for name, each in records.items() for record in each):
        for key in ("torch", "threads"):
            if record[key] != first[key]:
                raise BenchError(f"{name} ran with {key} {record[key]}, {first_name} with {first[key]}: no comparison")
        for step, (loss, reference) in enumerate(zip(record["losses"], first["losses"], strict=False), start=1):
            if not abs(loss - reference) <= tolerance * abs(reference):
                raise BenchError(
                    f"{name} had loss {loss} at step {step}, {first_name} {reference}: that is another training"
                )


def _help_seconds(variables: dict[str, str]) -> Iterator[float]:
    for _ in range(HELP_RUNS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "andon", "--help"], env=variables, stdout=subprocess.DEVNULL, check=True)
        yield time.perf_counter() - begun


def _glance(record: dict[str, Any]) -> str:
    """What a record says at first sight."""
    if "products" in record:
        step, ratio = statistics.median(record["steps"]), over_products(record["steps"], record["products"])
        return f"{step * 1000:.0f} ms per step, {ratio:.3f} x its products"
    if "live" in record:
        return f"{record['live'] / 1e6:.0f} MB of tensors"
    return f"peak {record['peak'] / 1e6:.0f} MB" if record["peak"] else "memory: not measured on this platform"
