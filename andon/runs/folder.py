"""A run's folder: its name, its lock, its log and its result."""

import itertools
import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from andon.files import write_whole
from andon.log import NAME as LOG
from andon.log import of_kind, read_log

if TYPE_CHECKING:
    from andon.core.training.state import TrainState

RUNS = Path("reports/runs")
CACHE = Path("reports/data")


class RunError(RuntimeError):
    """A run that cannot start or continue in its folder; the message names the folder and the next step."""


def new_folder(name: str) -> Path:
    """An unused folder under RUNS: the name, and the time."""
    stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = (RUNS / (stamp if number == 1 else f"{stamp}-{number}") for number in itertools.count(1))
    return next(folder for folder in tries if not folder.exists())


@contextmanager
def locked(folder: Path, *, resume: bool) -> Generator[None]:
    """Lock the folder against a second process, and against a second run; one that stays empty is removed.

    Raises:
        RunError: the folder has a run already, or none to resume, or another process is writing there.
    """
    new = not folder.exists()
    started = (folder / "config.json").exists()
    if resume and not started:
        raise RunError(f"{folder}: holds no run to resume; name a folder such as {RUNS}/<id>")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunError(f"{folder}: another run is writing here; wait for it, or name another --out") from error
    try:
        if not resume and (folder / "config.json").exists():
            raise RunError(f"{folder}: holds a run already; continue it with --resume {folder}, or name another --out")
        yield
    finally:
        lock.release()
        if new and [folder / "run.lock"] == list(folder.iterdir()):  # the run failed before its first file
            (folder / "run.lock").unlink()
            folder.rmdir()


def drop_log_after(step: int, folder: Path) -> None:
    """Remove the records of later steps: a killed run has logged steps after its last checkpoint, to be repeated."""
    kept = [record for record in read_log(folder) if record["step"] <= step] if (folder / LOG).exists() else []
    write_whole(folder / LOG, "".join(json.dumps(record) + "\n" for record in kept))


def result_of(folder: Path, state: "TrainState", exit_code: int) -> dict[str, Any]:
    """A run's result from its log and its state; what was not measured is null."""
    import torch

    from andon.core.machine import cpu_model

    records = read_log(folder)
    steps, validations = of_kind(records, "step"), of_kind(records, "validation")
    counted = [record for record in steps if not record["skipped"]]
    tokens, busy = sum(r["tokens"] for r in steps), sum(sum(r["seconds"].values()) for r in steps)
    return {
        "run": folder.name,
        "exit": exit_code,
        "steps": state.step,
        "skipped_steps": len(steps) - len(counted),
        "tokens": tokens,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "train_loss": counted[-1]["loss"] if counted else None,
        "validation_loss": validations[-1]["loss"] if validations else None,
        "bits_per_byte": validations[-1]["bits_per_byte"] if validations else None,
        "tokens_per_second": tokens / busy if busy else None,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": cpu_model(),
    }


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write `result.json` atomically."""
    write_whole(folder / "result.json", json.dumps(result, indent=2) + "\n")
