"""Run a tier's measures as commands: lanes in parallel, each measure's output in a log, its exit code as evidence."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from andon.gates.clock import read_clock, usage
from andon.gates.config import Gates, Measure
from andon.gates.evidence import EXIT_CODE, FOLDER, Evidence, Metric, digests, run_record, seal_evidence, write_evidence
from andon.gates.judge import log_path

SIDE_BY_SIDE = 2
TIMED_OUT = 124
NOT_FOUND = 127


@dataclass(frozen=True)
class Step:
    """What a watcher of a run gets: a measure starts (`seconds` and `exit_code` are None) or has ended."""

    measure: Measure
    seconds: float | None = None
    exit_code: int | None = None


class Commands:
    """The commands that run now, so that all of them can be ended: none starts once `stop` was called."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def start(self, measure: Measure, log: int, root: Path) -> subprocess.Popen[bytes]:
        """Start a command in a project's root, its output going to an open file.

        Raises:
            OSError: there is no such command.
            CancelledError: the run was stopped.
        """
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment = os.environ | {"PATH": tools, "NO_COLOR": "1"} | measure.environment
        environment.pop("FORCE_COLOR", None)
        with self.lock:  # a command must be known before it can be missed
            if self.stopped:
                raise CancelledError
            process = subprocess.Popen(
                shlex.split(measure.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=root,
                env=environment,
                start_new_session=True,  # so that a kill reaches the command's own children
            )
            self.running.add(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a command with its children, unless it has been waited for."""
        with self.lock:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it ended by itself
                    os.killpg(process.pid, signal.SIGKILL)
            self.running.discard(process)

    def stop(self) -> None:
        """Kill every command, and let none start."""
        with self.lock:
            self.stopped = True
        for process in list(self.running):
            self.end(process)


def run(tier: str, gates: Gates, folder: Path = FOLDER, watch: Callable[[Step], None] = lambda _: None) -> None:
    """Run the tier's measures; record the exit code of each (`<measure>.run`), and the tier's clock (`<tier>`).

    At most two lanes run at once. `watch` is called from the lanes' threads. When this call is interrupted, the
    commands it started are killed before the interruption goes on.

    Raises:
        GateError: no such tier.
    """
    lanes: dict[str, list[Measure]] = {}
    for measure in gates.measures_of(tier):
        lanes.setdefault(measure.lane, []).append(measure)
    names = [measure.name for lane in lanes.values() for measure in lane]
    for name in [tier, *names, *map(run_record, names)]:
        (folder / f"{name}.json").unlink(missing_ok=True)  # an interrupted measure leaves nothing
    folder.mkdir(parents=True, exist_ok=True)
    sources, start, commands = digests(gates.sources), read_clock(), Commands()

    def run_lane(measures: list[Measure]) -> None:
        for measure in measures:
            watch(Step(measure))
            seconds, code = _measure(measure, gates.sources_of(measure), folder, commands)
            watch(Step(measure, seconds, code))

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        try:
            for future in [pool.submit(run_lane, measures) for measures in lanes.values()]:
                future.result()
        finally:
            commands.stop()
    used = usage(start, read_clock())
    metrics = {
        "wall_seconds": Metric(used.wall_seconds, "s"),
        "cpu_seconds": Metric(used.cpu_seconds, "s"),
        "others_share": Metric(used.others_share, "of cores x wall"),
    }
    write_evidence(Evidence(tier, f"andon gate run {tier}", used.wall_seconds, sources, metrics), folder)


def _measure(measure: Measure, sources: list[str], folder: Path, commands: Commands) -> tuple[float, int]:
    """Run one command to its end and record its exit code; evidence of its own is the command's to write."""
    before, start = digests(sources), time.perf_counter()
    with log_path(measure.name, folder).open("wb") as log:
        code = execute(measure, log.fileno(), commands)
    seconds = time.perf_counter() - start
    record = Evidence(
        run_record(measure.name), measure.command, seconds, before, {EXIT_CODE: Metric(code, "exit code")}
    )
    write_evidence(record, folder)
    seal_evidence(measure.name, folder)
    return seconds, code


def execute(measure: Measure, log: int, commands: Commands, root: Path = Path()) -> int:
    """The command's exit code: 127 where there is no such command, 124 where it ran out of time."""
    try:
        process = commands.start(measure, log, root)
    except OSError as error:
        os.write(log, f"{measure.command}: cannot start ({error.strerror})\n".encode())
        return NOT_FOUND
    try:
        return process.wait(measure.timeout_seconds)
    except subprocess.TimeoutExpired:
        os.write(log, f"\nstopped after {measure.timeout_seconds:g} s (timeout_seconds)\n".encode())
        return TIMED_OUT
    finally:
        commands.end(process)
        process.wait()
