"""Runs `andon verify -- COMMAND` in a folder of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.overrides import _get_current_function_mode

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).resolve().parent / "scripts"


@pytest.fixture(autouse=True)
def _no_mode_is_left() -> Iterator[None]:
    """What a run that ends in an evaluation looks on with ends with its process, here with its test."""
    yield
    while (mode := _get_current_function_mode()) is not None:
        mode.__exit__(None, None, None)


class Door:
    """A folder with a script in it, and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, script: str, *edits: tuple[str, str], name: str = "train.py") -> None:
        """Put a script there, changed; each text to be replaced occurs once."""
        source = (SCRIPTS / script).read_text()
        for old, new in edits:
            assert 1 == source.count(old), f"{old!r} occurs {source.count(old)} times"
            source = source.replace(old, new)
        (self.folder / name).write_text(source)

    def run(self, *words: str, typed: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Any command, there."""
        known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            words, cwd=self.folder, env=known, capture_output=True, text=True, check=False, input=typed
        )

    def verify(
        self, *words: str, options: tuple[str, ...] = (), typed: str | None = None, **environment: str
    ) -> dict[str, Any]:
        """The report of a command."""
        options = ("--json", *options, "--")
        done = self.run(sys.executable, "-m", "andon", "verify", *options, *words, typed=typed, **environment)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)[0] | {"stderr": done.stderr, "code": done.returncode}


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """A folder of its own."""
    return Door(tmp_path)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever notes put in the place of torch's functions is taken out again."""
    kinds = [each for each in vars(lr_scheduler).values() if isinstance(each, type)]
    for kind in (each for each in kinds if issubclass(each, lr_scheduler.LRScheduler)):
        for name in ("__init__", "step", "load_state_dict"):
            if name in vars(kind):
                monkeypatch.setattr(kind, name, vars(kind)[name])
    for owner, name in (
        (torch, "save"), (torch, "load"), (nn.Module, "load_state_dict"), (torch.optim.Optimizer, "load_state_dict"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))
