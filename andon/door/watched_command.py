"""Runs a command as it is, with our folder on its path, and gathers what its processes left.

The script's own output, exit code and messages stay its own. Nothing stays behind: no process, no file, no folder.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

PACKAGE = Path(__file__).resolve().parents[1]
INJECTED = Path(__file__).resolve().parent / "inject"
BUDGET = 60.0  # CPU seconds of the script and of checks that have ended, from the first step
CHECK_BUDGET = 45.0  # seconds for the checks of one captured Subject
LEAST = 20  # steps before the budget ends a run
GRACE = 5.0  # seconds for a command that was interrupted
ENDS = (signal.SIGTERM, signal.SIGHUP)  # what others end us by; Python makes an exception of SIGINT itself
LEAVE = 0.05  # seconds for what is left of its processes, once they are told to end


@dataclass(frozen=True)
class Limits:
    """When a watched run ends, beside by itself."""

    steps: int | None = None
    budget: float = BUDGET
    whole: bool = False  # to its end, whatever it takes
    checks: bool = True  # capture a subject, and check it
    live: bool = False  # say what is found in the step that shows it
    trail: bool = False  # note what each step was
    until_save: bool = False  # be killed where the first step after a save begins
    trace: str = ""  # a folder: record the run there, and nothing else
    otlp: str = ""  # and send it there


@dataclass(frozen=True)
class Outcome:
    """What a command's processes left."""

    returncode: int
    results: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    last_line: str = ""  # of what a hidden one printed


def launch(
    command: Sequence[str],
    limits: Limits,
    *,
    where: Path | None = None,
    in_copy: bool = False,
    quiet_stdout: bool = False,
    hidden: bool = False,
) -> Outcome:
    """Run the command to its end or its limits, in this folder or another; what a `hidden` one prints is not shown.

    Raises:
        FileNotFoundError: there is no such program.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="andon-") as folder:
        out = Path(folder) / "out"
        out.mkdir()
        where = where or Path.cwd()
        if in_copy:
            where = copied(where, Path(folder))
        with (Path(folder) / "printed").open("w+", errors="replace") as printed:
            code = _run(
                command, where, _environment(out, limits), printed if hidden else None, quiet_stdout=quiet_stdout
            )
            printed.seek(0)
            last = next((line.strip() for line in reversed(printed.readlines()) if line.strip()), "")
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    return Outcome(code, results, time.monotonic() - begun, last)


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder within another, under its name."""
    made = to / folder.name
    shutil.copytree(folder, made, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    return made


def _environment(out: Path, limits: Limits) -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(INJECTED), *([before] if before else [])])
    if limits.trace:
        options = {"package": str(PACKAGE), "trace": limits.trace, "otlp": limits.otlp}
        return {**os.environ, "PYTHONPATH": path, "ANDON_DOOR": json.dumps(options)}
    return {
        **os.environ,
        "PYTHONPATH": path,
        "ANDON_DOOR": json.dumps(options_of(out, limits)),
        "TORCHDYNAMO_DISABLE": "1",
    }


def options_of(out: Path, limits: Limits) -> dict[str, Any]:
    """What `observe.begin` is told in a watched process."""
    return {
        "package": str(PACKAGE),
        "out": str(out),
        "steps": limits.steps,
        "budget": 1e12 if limits.whole else limits.budget,
        "least": LEAST,
        "checks": limits.checks,
        "check_budget": CHECK_BUDGET,
        "live": limits.live,
        "trail": limits.trail,
        "until_save": limits.until_save,
    }


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Whoever ends us so ends the command as well: an exception, that it is cleaned up after."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in ENDS if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def _run(
    command: Sequence[str], where: Path, environment: dict[str, str], printed: IO[str] | None, *, quiet_stdout: bool
) -> int:
    """The command's exit code; whatever is left of its processes then is ended. `printed`: where its output goes."""
    stdout = printed or (sys.stderr.fileno() if quiet_stdout else None)
    process = subprocess.Popen(
        list(command), cwd=where, env=environment, stdout=stdout, stderr=printed, start_new_session=True
    )
    try:
        with _ended_by_signals():
            return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=GRACE)
        raise
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(LEAVE)  # they are no children of ours, for which we could wait
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
