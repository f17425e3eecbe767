"""A command run in a folder, with its time and what it printed."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
OUT_OF_TIME = 124
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}


class Done(NamedTuple):
    """How a command ended; `cpu` is its own and its children's."""

    code: int
    out: str
    error: str
    seconds: float
    cpu: float


def python(interpreter: Path | None = None) -> list[str]:
    """The words that start Python, this one or another environment's."""
    return [str(interpreter or sys.executable)]


def run(words: Sequence[str], folder: Path, timeout: float, environment: dict[str, str] | None = None) -> Done:
    """Run a command to its end, or for so many seconds: then its code is 124, and what it had printed is kept."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    own = os.environ | QUIET | {"PYTHONPATH": path} | (environment or {})
    begun, spent = time.monotonic(), _children()
    try:
        done = subprocess.run(words, cwd=folder, env=own, capture_output=True, timeout=timeout, check=False)
        code, out, error = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        code, out, error = OUT_OF_TIME, late.stdout or b"", late.stderr or b""
    said = [text.decode("utf-8", "replace") for text in (out, error)]
    return Done(code, *said, time.monotonic() - begun, _children() - spent)


def _children() -> float:
    used = os.times()
    return used.children_user + used.children_system
