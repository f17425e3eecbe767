"""A run's folder: its name, its lock, its log and its result."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from andon.files import sweep, write_whole
from andon.log import NAME as LOG
from andon.log import Record, of_kind, read_log, timed_steps
from andon.reading import file_sha256
from andon.sealing import seal

if TYPE_CHECKING:
    from andon.core.training.state import TrainState

RUNS = Path("reports/runs")
CACHE = Path("reports/data")
SPANS = 5  # of a log's holes that a message names


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
        raise RunError(nothing_to_resume(folder))
    make_folder(folder)
    lock = filelock.FileLock(folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunError(f"{folder}: another run is writing here; wait for it, or name another --out") from error
    try:
        if not resume and (folder / "config.json").exists():
            raise RunError(f"{folder}: holds a run already; continue it with --resume {folder}, or name another --out")
        clear_leftovers(folder)
        yield
    finally:
        lock.release()
        if new and [folder / "run.lock"] == list(folder.iterdir()):  # the run failed before its first file
            (folder / "run.lock").unlink()
            folder.rmdir()


def nothing_to_resume(folder: Path) -> str:
    """Why the run in a folder cannot be resumed, and what to do."""
    if (folder / "run.lock").exists():
        return (
            f"{folder}: the run there was killed before it wrote its config.json, so there is nothing to resume; "
            f"start it again with the command that it was started with, --out {folder}"
        )
    return f"{folder}: holds no run to resume; name a folder such as {RUNS}/<id>"


def require_resumable(folder: Path) -> None:
    """Raises RunError where a run was killed before it wrote anything that it could be resumed by."""
    if (folder / "run.lock").exists() and not (folder / "config.json").exists():
        raise RunError(nothing_to_resume(folder))


def make_folder(folder: Path) -> None:
    """Make a run's folder.

    Raises:
        RunError: the file system refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}); name another folder with --out") from error


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process has left half done; nobody else writes here.

    Raises:
        RunError: the file system refused.
    """
    from andon.core.files.folders import recover

    try:
        sweep(folder)
        recover(folder / "checkpoints")
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be removed ({error.strerror}); check its permissions") from error


def drop_log_after(step: int, folder: Path) -> list[str]:
    """Remove the records of later steps: a killed run has logged steps after its last checkpoint, to be repeated.

    Returns a note where what is left does not hold each step up to this one once.
    """
    kept = [record for record in read_log(folder) if record["step"] <= step] if (folder / LOG).exists() else []
    write_whole(folder / LOG, "".join(json.dumps(record) + "\n" for record in kept))
    holes = log_holes(kept, step)
    return [f"{folder / LOG}: {holes}, so its totals and result.json's are not the run's"] if holes else []


def log_holes(records: list[Record], step: int) -> str:
    """What a log lacks of the steps 1 to `step`, or has twice; empty where each is there once."""
    counts = Counter(record["step"] for record in of_kind(records, "step"))
    missing = [number for number in range(1, step + 1) if not counts[number]]
    twice = [number for number, count in counts.items() if count > 1]
    parts = [f"steps {_spans(missing)} are missing" if missing else "", f"steps {_spans(twice)} are there twice"]
    return " and ".join(part for part in (parts if twice else parts[:1]) if part)


def _spans(numbers: list[int]) -> str:
    """`3 to 5, 8`, of sorted numbers; the first few."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    told = [f"{first}" if first == last else f"{first} to {last}" for first, last in spans[:SPANS]]
    return ", ".join(told) + (", ..." if len(spans) > SPANS else "")


def result_of(folder: Path, state: "TrainState", exit_code: int) -> dict[str, Any]:
    """A run's result from its log and its state; what was not measured is null."""
    import torch

    from andon.core.machine import cpu_model

    records = read_log(folder)
    steps, validations = of_kind(records, "step"), of_kind(records, "validation")
    counted = [record for record in steps if not record["skipped"]]
    tokens = sum(r["tokens"] for r in steps)
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
        "tokens_per_second": _rate(records),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": cpu_model(),
    }


def _rate(records: list[dict[str, Any]]) -> float | None:
    """Tokens a second of the steps that were timed."""
    timed = timed_steps(records)
    busy = sum(sum(each["seconds"].values()) for each in timed)
    return sum(each["tokens"] for each in timed) / busy if busy else None


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write `result.json`, whole, and sealed together with the log that it sums up."""
    log = file_sha256(folder / LOG)
    write_whole(folder / "result.json", seal(result | {"log_sha256": log}).decode())
