"""One run in a folder: the loop around `andon.core.training.loop` that logs, validates, checkpoints and stops.

What is trained, and on what data, is the caller's choice: from scratch here, an adapter in `andon.runs.finetuning`.
"""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from andon.files import write_whole
from andon.log import NAME as LOG
from andon.runs.cord import make_cord, watched_weights, write_verdict
from andon.runs.endings import require_one_process, verb_of_command, where_to_go_on, why_it_ended
from andon.runs.folder import RunError, drop_log_after, locked, result_of, write_result
from andon.runs.memory import PeakMemory
from andon.runs.profiling import Profiling
from andon.runs.saving import restore, validate, validate_and_save
from andon.runs.screen import Say, progress
from andon.runs.setup import Prepare, RunSetup, from_scratch
from andon.runs.signals import stop_signals
from andon.runs.terminal import steady_output
from andon.runs.tracer import Tracer, command_line, describe, endpoint_of, log_step, open_tracer

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.tracing.endpoint import Endpoint


def run(
    config: "Config",
    folder: Path,
    *,
    prepare: Prepare = from_scratch,
    resume: bool = False,
    previous: bool = False,
    device: str = "cpu",
    traced: bool = True,
    otlp: str | None = None,
    profile: int | None = None,
    quiet: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Train into `folder` and return the content of `result.json`; its `exit` is the process's exit code.

    Raises:
        RunError: the folder has a run already, or none to resume, or another process is writing there.
    """
    require_one_process(verb_of_command())
    to = endpoint_of(otlp, traced=traced)  # what cannot be used is refused before anything is done
    noted: list[str] = []
    with steady_output(noted.append), locked(folder, resume=resume):
        running = False
        try:
            setup = prepare(config, device, say)
            if resume:
                restore(setup.state, config, folder, say, previous=previous)
            running = True
            profiling = Profiling(folder, profile)
            return _run(setup, config, folder, noted, to, profiling, device=device, traced=traced, quiet=quiet, say=say)
        except Exception as error:
            told = why_it_ended(error, folder, running=running)
            if not told:
                raise
            raise RunError(told) from error


def _run(
    setup: RunSetup,
    config: "Config",
    folder: Path,
    noted: list[str],
    to: "Endpoint | None",
    profiling: Profiling,
    *,
    device: str,
    traced: bool,
    quiet: bool,
    say: Say,
) -> dict[str, Any]:
    """The run of a state that is ready for its next step."""
    from andon.core.config import dump_config

    state = setup.state
    resumed_at = state.step
    write_whole(folder / "config.json", dump_config(config))
    for note in drop_log_after(state.step, folder):
        say(note)
    attributes = {**describe(setup, config, device), "train.resumed_at": resumed_at}
    begun = time.monotonic()
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    memory = PeakMemory(state, config)
    with stop_signals() as stopped:
        with open_tracer(folder, attributes, to, say, traced=traced) as tracer:
            measured = tracer._replace(span=profiling.around(memory.measured(tracer.span)))
            exit_code, message = _loop(setup, config, folder, measured, stopped, noted, profiling, quiet=quiet)
            profiling.end()
        if message:
            say(message)
        result = result_of(folder, state, exit_code) | {
            "command": command_line(),
            "started": started,
            "seconds": time.monotonic() - begun,
            "peak_bytes": memory.peak,
            "resumed_at": resumed_at,
        }
        result |= setup.on_finish()
        write_result(folder, result)
    return result


def _loop(
    setup: RunSetup,
    config: "Config",
    folder: Path,
    tracer: Tracer,
    stopped: Callable[[], int],
    noted: list[str],
    profiling: Profiling,
    *,
    quiet: bool,
) -> tuple[int, str]:
    """Exit code and last message. What is `noted` meanwhile goes to the log, as nobody reads the terminal any more."""
    from andon.core.files.manifest import NotFiniteError
    from andon.core.training import loop as training

    state, span = setup.state, tracer.span
    total = setup.dataset.steps(config)
    with (
        progress(state.step, total, quiet=quiet) as (show, say),
        (folder / LOG).open("a", encoding="utf-8", buffering=1) as log,
        watched_weights(config.cord, state) as watch,
    ):
        cord = make_cord(config.cord, watch)
        try:
            if setup.base and not state.step:
                validate(setup, config, span, log.write, say)
            for record in training.train(state, setup.dataset, config, span=span):
                with span("logging"):
                    log_step(record, log.write, tracer, say, profiled=profiling.profiled)
                    show(record)
                    _note(noted, record.step, log.write)
                number = stopped()
                verdict = cord(replace(record, tokens=0, seconds={}) if profiling.profiled else record)
                ended = state.step == total or state.data.epoch > record.epoch
                validate_and_save(
                    setup, config, folder, span, log.write, say, ended=ended, stopped=bool(number or verdict)
                )
                if verdict:
                    tracer.note_verdict(verdict)
                    return 4, write_verdict(verdict, setup.verb, folder)
                if number:
                    where = f"stopped by {signal.Signals(number).name} after step {state.step}"
                    return 128 + number, f"{where}; continue with: andon {setup.verb} --resume {folder}"
        except (training.NonFiniteError, NotFiniteError) as error:
            tracer.finding("train.not_finite", step=state.step)
            return 5, f"{error}. {where_to_go_on(folder, setup.verb)}"
    return 0, ""


def _note(noted: list[str], step: int, write: Callable[[str], object]) -> None:
    """Put into the log what a terminal can no longer show."""
    while noted:
        write(json.dumps({"kind": "note", "step": step, "text": noted.pop(0)}) + "\n")
