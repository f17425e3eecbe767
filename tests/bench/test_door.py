"""The benchmark of the door: what its processes print can be read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.tier3
def test_steps_are_watched_in_turn(tmp_path: Path) -> None:
    """Behavior: a difference for each pair of steps, one of which is watched as a command's are."""
    words = [sys.executable, "-m", "tests.bench.door_steps", str(tmp_path), "2"]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    assert 2 == len(json.loads(done.stdout))
