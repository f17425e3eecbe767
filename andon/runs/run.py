"""One run in a folder: the loop around `andon.core.training.loop` that logs, validates, checkpoints and stops.

What is trained, and on what, is the caller's: from scratch here, an adapter in `andon.cli.finetune`.
"""

import itertools
import json
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import filelock

from andon.log import NAME as LOG
from andon.log import of_kind, read_log
from andon.runs.cord import cord, watching
from andon.runs.memory import Memory
from andon.runs.screen import Say, progress

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.core.data.dataset import Dataset
    from andon.core.training.loop import Span
    from andon.core.training.state import TrainState

RUNS = Path("reports/runs")
CACHE = Path("reports/data")


class RunError(RuntimeError):
    """A run that cannot start or go on where it was told to; the message names the folder and the next step."""


class Beginning(NamedTuple):
    """A run before its first step."""

    state: "TrainState"
    dataset: "Dataset"
    verb: str = "train"  # of `andon`, by which a stopped run goes on
    base: str = ""  # of an adapter: where its frozen model lies; the loss is then measured before the first step too
    closing: Callable[[], dict[str, Any]] = dict  # what more `result.json` is to hold, found at the end


Begin = Callable[["Config", str, Say], Beginning]


def from_scratch(config: "Config", device: str, say: Say) -> Beginning:
    """New weights on the corpus that the configuration names."""
    from andon.core.data.dataset import open_dataset
    from andon.core.training.loop import initial_state

    dataset = open_dataset(config, CACHE)
    say(dataset.note)
    return Beginning(initial_state(config, device), dataset)


def run(
    config: "Config",
    folder: Path,
    *,
    begin: Begin = from_scratch,
    resume: bool = False,
    previous: bool = False,
    device: str = "cpu",
    traced: bool = True,
    otlp: str | None = None,
    quiet: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Train into `folder` and return what `result.json` holds; its `exit` is the process's exit code.

    Raises:
        RunError: the folder holds a run already, or none to resume, or another process is writing there.
    """
    from andon.core.config import dump_config

    with _claimed(folder, resume=resume):
        beginning = begin(config, device, say)
        state, dataset = beginning.state, beginning.dataset
        if resume:
            _restore(state, config, folder, say, previous=previous)
        (folder / "config.json").write_text(dump_config(config), encoding="utf-8")
        _forget_steps_after(state.step, folder)
        attributes = {"train.steps": dataset.steps(config), "train.resumed_at": state.step}
        begun = time.monotonic()
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        memory = Memory(state, config)
        with _tracer(folder, attributes, otlp, say, traced=traced) as span:
            exit_code, message = _loop(beginning, config, folder, memory.watching(span), quiet=quiet)
        if message:
            say(message)
        result = _result(folder, state, exit_code) | {
            "command": shlex.join(["andon", *sys.argv[1:]]),
            "started": started,
            "seconds": time.monotonic() - begun,
            "peak_bytes": memory.peak,
        }
        result |= beginning.closing()
        write_result(folder, result)
        return result


def new_folder(name: str) -> Path:
    """A folder under RUNS that no run has: the name, and the time."""
    stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = (RUNS / (stamp if number == 1 else f"{stamp}-{number}") for number in itertools.count(1))
    return next(folder for folder in tries if not folder.exists())


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Put `result.json` beside the run, whole or not at all."""
    partial = folder / ".result.json.partial"
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / "result.json")


def _loop(beginning: Beginning, config: "Config", folder: Path, span: "Span", *, quiet: bool) -> tuple[int, str]:
    """Exit code and closing message."""
    from andon.core.training import loop as training

    state = beginning.state
    total = beginning.dataset.steps(config)
    with (
        _stop_signals() as stopped,
        progress(state.step, total, quiet=quiet) as (show, say),
        (folder / LOG).open("a", encoding="utf-8", buffering=1) as log,
        watching(config.cord, state) as watch,
    ):
        pull = cord(config.cord, watch)
        try:
            if beginning.base and not state.step:
                _validate(beginning, config, span, log.write, say)
            for record in training.train(state, beginning.dataset, config, span=span):
                log.write(json.dumps({"kind": "step"} | asdict(record)) + "\n")
                show(record)
                if record.skipped:
                    say(f"step {record.step}: skipped: loss {record.loss}, gradient norm {record.grad_norm}")
                number, verdict = stopped(), pull(record)
                ended = state.step == total or state.data.epoch > record.epoch
                _keep(beginning, config, folder, span, log.write, say, ended=ended, stopped=bool(number or verdict))
                if verdict:
                    return 4, _pulled(verdict, beginning.verb, folder)
                if number:
                    where = f"stopped by {signal.Signals(number).name} after step {state.step}"
                    return 128 + number, f"{where}; go on with: andon {beginning.verb} --resume {folder}"
        except training.NonFiniteError as error:
            return 5, str(error)
    return 0, ""


def _pulled(verdict: Any, verb: str, folder: Path) -> str:
    """Put the verdict that stopped a run beside it; returns what to say of it."""
    from andon import gates

    (folder / "cord.json").write_text(gates.render_json(verdict), encoding="utf-8")
    text = gates.render_text(verdict)
    return f"the cord stopped the run: {text}\nwith a checkpoint; go on with: andon {verb} --resume {folder}"


def _keep(
    beginning: Beginning,
    config: "Config",
    folder: Path,
    span: "Span",
    write: Callable[[str], object],
    say: Say,
    *,
    ended: bool,
    stopped: bool,
) -> None:
    """Validate and save where this step is due for it: at an epoch's or the run's end, every so many steps.

    A run that is stopped saves and does not validate: whoever sent the signal may not wait for that.
    """
    from andon.core.checkpoint import save_checkpoint
    from andon.core.files.folders import rotate

    state, metric = beginning.state, None
    if ended or _is_due(state.step, config.validation.every_steps):
        metric = _validate(beginning, config, span, write, say)
    if ended or stopped or _is_due(state.step, config.checkpoint.every_steps):
        with span("checkpoint"):
            saved = save_checkpoint(
                folder / "checkpoints", state, config, beginning.dataset.tokenizer_file, metric, beginning.base
            )
            rotate(saved, config.checkpoint.keep_last, config.checkpoint.keep_best)


def _validate(beginning: Beginning, config: "Config", span: "Span", write: Callable[[str], object], say: Say) -> float:
    """The loss on held-out data, in nats per token, logged and said."""
    from andon.core.data.dataset import validation_batches
    from andon.core.training.loop import validate

    with span("validation"):
        held_out = validation_batches(beginning.dataset, config)
        loss, _ = validate(beginning.state.model, held_out, config.training.dtype)
    step, bits = beginning.state.step, beginning.dataset.validation.bits_per_byte(loss)
    write(json.dumps({"kind": "validation", "step": step, "loss": loss, "bits_per_byte": bits}) + "\n")
    say(f"step {step}: validation loss {loss:.4f}, {bits:.3f} bits per byte")
    return loss


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _restore(state: "TrainState", config: "Config", folder: Path, say: Say, *, previous: bool) -> None:
    from andon.core.checkpoint import load_checkpoint
    from andon.core.files.folders import checkpoints

    found = checkpoints(folder / "checkpoints")
    if len(found) <= previous:
        which = "no checkpoint before the last one" if previous else "no checkpoint yet"
        raise RunError(f"{folder}: {which}; start anew with another --out")
    for note in load_checkpoint(found[previous], state, config):
        say(note)
    say(f"resumed {found[previous]} at step {state.step}")


def _forget_steps_after(step: int, folder: Path) -> None:
    """A killed run has logged steps that its checkpoint has not seen; they are about to be done again."""
    kept = [record for record in read_log(folder) if record["step"] <= step] if (folder / LOG).exists() else []
    partial = folder / f".{LOG}.partial"
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    partial.replace(folder / LOG)


def _result(folder: Path, state: "TrainState", exit_code: int) -> dict[str, Any]:
    """What the log says of the whole run; what it does not say is null."""
    import torch

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
        "processor": platform.processor() or platform.machine(),
    }


@contextmanager
def _claimed(folder: Path, *, resume: bool) -> Generator[None]:
    """Hold the folder against a second process, and against a second run; a new one that stays empty is taken away."""
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
            raise RunError(f"{folder}: holds a run already; go on with --resume {folder}, or name another --out")
        yield
    finally:
        lock.release()
        if new and [folder / "run.lock"] == list(folder.iterdir()):  # what it was to train could not be made
            (folder / "run.lock").unlink()
            folder.rmdir()


@contextmanager
def _tracer(folder: Path, attributes: dict[str, Any], otlp: str | None, say: Say, *, traced: bool) -> "Generator[Span]":
    """The span factory of a traced run; of an untraced one where asked for, or where OpenTelemetry is absent."""
    from andon.core.training.loop import no_span

    if not traced:
        yield no_span
        return
    try:
        from andon.tracing import record
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        say("tracing off: pip install 'andon[trace]'")
        yield no_span
        return
    with record.open_trace(folder / "trace.jsonl", folder.name, attributes, otlp=otlp) as trace:
        yield trace.span
    for note in trace.notes:
        say(note)


@contextmanager
def _stop_signals() -> Generator[Callable[[], int]]:
    """SIGINT and SIGTERM are noted, once, for the step to end first; a second Ctrl-C interrupts at once."""
    number = 0

    def note(received: int, _: object) -> None:
        nonlocal number
        number = received
        signal.signal(signal.SIGINT, signal.default_int_handler)

    old = {name: signal.signal(name, note) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: number
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)
