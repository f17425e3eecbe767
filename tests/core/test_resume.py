"""A run that is killed and resumed is the run that was not."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What killing.py saw."""
    command = [sys.executable, "-m", "tests.core.killing", str(tmp_path_factory.mktemp("runs"))]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


def test_twenty_kills_leave_no_trace(runs: dict[str, Any]) -> None:
    """Behavior: 20 runs killed at random, resumed, killed and resumed again end bitwise as the undisturbed run.

    That is every logged loss, all weights and all moments.
    """
    assert 20 == len(runs["kills"])
    for kill in runs["kills"]:
        whole = runs["whole"][kill["of"]]
        assert whole["losses"] == kill["losses"], kill["places"]
        assert whole["tensors"] == kill["tensors"], kill["places"]


def test_some_kills_hit_an_accumulation(runs: dict[str, Any]) -> None:
    """Behavior: of those kills, several came between two micro-batches of one step, several inside other phases."""
    places = [names for kill in runs["kills"] for names in kill["places"]]
    inside = [names for names in places if names[-2:] == ["backward", "forward"]]
    assert len(inside) >= 3
    assert len({names[-1] for names in places}) >= 4


def test_runs_are_worth_comparing(runs: dict[str, Any]) -> None:
    """Behavior: the runs are different by dtype, and each has steps whose losses differ from one another."""
    tensors = {whole["tensors"][0] for whole in runs["whole"]}
    assert len(runs["whole"]) - 1 == len(tensors)  # workers change nothing, dtypes do
    for whole in runs["whole"]:
        losses = [line["loss"] for line in whole["losses"] if line["kind"] == "step"]
        assert len(losses) == len(set(losses)) > 10
