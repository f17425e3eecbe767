"""The list of releases, and the isolated folders that they are installed into."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.environments import OWN

FILE = Path(__file__).with_name("releases.toml")
FOLDER = Path(".nox/known_bugs")
LINES = 12  # of pip's complaint that are shown
# Beside torch and what our command line needs: what every library of the list imports and none pins.
COMMON = ("safetensors", "regex", "requests", "packaging", "pyyaml", "tqdm", "jinja2", "setuptools<81", "einops")


class InstallError(RuntimeError):
    """A release that cannot be installed, so that nothing was measured of it."""


class Release(NamedTuple):
    """One bug in one release."""

    id: str
    package: str
    wrong: str  # version with the bug
    right: str  # first known version without it; empty where the bug lives
    subject: str  # in `tests.known_bugs.subjects`
    fault: str
    source: str
    pins: Mapping[str, tuple[str, ...]]  # of `wrong` and `right`
    variables: Mapping[str, str]
    shows: tuple[str, ...]  # findings that are this bug's, where comparing releases does not say it


def releases(file: Path = FILE) -> list[Release]:
    """All that are listed."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    return [_release(entry, content["groups"]) for entry in content["release"]]


def sharded(listed: list[Release], shard: str) -> list[Release]:
    """Every n-th release from the i-th on, for "i/n".

    Raises:
        ValueError: the shard is not written so.
    """
    number, _, count = shard.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard {shard!r}: write i/n, with i from 1 to n")
    return listed[int(number) - 1 :: int(count)]


def base(say: Callable[[str], None]) -> Path:
    """The Python that all releases share: torch, and nothing that is on the list.

    Raises:
        InstallError: pip could not install it.
    """
    home = (FOLDER / "base").resolve()
    same = [f"{package}=={version(package).partition('+')[0]}" for package in ("torch", "numpy")]
    wanted, python, stamp = [*same, *OWN, *COMMON], home / "bin" / "python", home / "known_bugs.stamp"
    digest = hashlib.sha256(json.dumps([wanted, sys.version, str(home)]).encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text(encoding="ascii") == digest):
        say(f"building {home} once: this takes a minute or two")
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
        stamp.write_text(digest, encoding="ascii")
    return python


def installed(python: Path, pins: tuple[str, ...], say: Callable[[str], None]) -> Path:
    """A folder that holds these pins and no more; installed at first use, whole or not at all.

    Raises:
        InstallError: pip could not install them.
    """
    digest = hashlib.sha256(json.dumps(sorted(pins)).encode()).hexdigest()[:12]
    target = (FOLDER / f"{pins[0].replace('==', '-')}-{digest}").resolve()
    if not target.exists():
        say(f"installing {' '.join(pins[:3])} ...")
        half = target.with_suffix(".half")
        shutil.rmtree(half, ignore_errors=True)
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(half)]
        _run([str(python), "-m", "pip", "install", *options, *pins])
        half.rename(target)
    return target


def variables(release: Release, target: Path) -> dict[str, str]:
    """The environment of a process that sees this release, our checkout, and nothing else of the user's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OMP_", "TRITON"))}
    own = {
        "PYTHONPATH": os.pathsep.join((str(target), str(Path.cwd()))),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**kept, **own, **release.variables}


def _release(entry: dict[str, Any], groups: Mapping[str, list[str]]) -> Release:
    pins = {which: _pinned(entry.pop(f"pins_{which}"), groups) for which in ("wrong", "right")}
    shows = tuple(entry.pop("shows", ()))
    fields: dict[str, Any] = {"variables": {}, **entry, "pins": pins, "shows": shows}
    return Release(**fields)


def _pinned(pins: list[str], groups: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(pin for each in pins for pin in (groups[each[1:]] if each.startswith("@") else [each]))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-LINES:])
        raise InstallError(f"`{' '.join(command)[:200]}` failed:\n{tail}")
