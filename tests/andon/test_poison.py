"""A run whose numbers stop being finite: its checkpoints from before stay, and one of them is named."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from andon.core.files.folders import checkpoints
from andon.core.files.manifest import read_manifest
from andon.core.training import loop as training
from andon.runs.run import run
from tests.small_run import small_config, write_corpus

AT = 9  # the step after which a number is spoilt
CHANGES: tuple[tuple[str, Any], ...] = (
    ("checkpoint.every_steps", 4),
    ("checkpoint.keep_last", 2),
    ("checkpoint.keep_best", False),
    ("training.max_steps", 20),
    ("training.max_skipped_steps", 5),
)


def spoil(state: Any, what: str, value: float) -> None:
    """One number of a weight or of a moment."""
    weight = state.model.model.layers[1].mlp.up_proj.weight
    (weight.data if what == "weight" else state.optimizer.state[weight][what])[2, 1] = value


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small run, and the folder where it runs."""
    monkeypatch.chdir(tmp_path)
    return small_config(write_corpus(tmp_path / "corpus"), *CHANGES)


def steps_kept(folder: Path) -> list[int]:
    """The checkpoints' steps, the latest first."""
    return [int(path.name.removeprefix("step-")) for path in checkpoints(folder / "checkpoints")]


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("what", "value"), [("weight", math.nan), ("weight", math.inf), ("exp_avg", math.nan), ("exp_avg_sq", math.inf)]
)
def test_a_spoilt_number_pushes_out_no_checkpoint(what: str, value: float, config: Any, monkeypatch: Any) -> None:
    """Behavior: after one weight or moment is NaN or inf the run ends with code 5, and --resume goes on from before."""
    plain = training.train

    def poisoned(state: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
        for record in plain(state, *arguments, **named):
            if record.step == AT:
                spoil(state, what, value)
            yield record

    said: list[str] = []
    monkeypatch.setattr(training, "train", poisoned)
    assert 5 == run(config, Path("run"), traced=False, quiet=True, say=said.append)["exit"]
    assert "newest finite checkpoint is run/checkpoints/step-00000008: andon train --resume run" in said[-1]
    assert [8, 4] == steps_kept(Path("run"))
    monkeypatch.setattr(training, "train", plain)
    run(config, Path("whole"), traced=False, quiet=True)
    assert 0 == run(config, Path("run"), resume=True, traced=False, quiet=True)["exit"]
    newest = [checkpoints(folder / "checkpoints")[0] for folder in (Path("whole"), Path("run"))]
    whole, resumed = (read_manifest(folder).files["model.safetensors"].sha256 for folder in newest)
    assert whole == resumed


@pytest.mark.tier3
def test_skipped_steps_push_out_no_checkpoint(config: Any, monkeypatch: Any) -> None:
    """Behavior: while the loss is not finite nothing is rotated, and the run ends naming the checkpoint from before."""
    plain, seen = training.loss, 0

    def poisoned(*arguments: Any, **named: Any) -> torch.Tensor:
        nonlocal seen
        seen += torch.is_grad_enabled()
        return plain(*arguments, **named) * (math.nan if seen > 3 * AT else 1.0)

    said: list[str] = []
    monkeypatch.setattr(training, "loss", poisoned)
    assert 5 == run(config, Path("run"), traced=False, quiet=True, say=said.append)["exit"]
    assert 8 in steps_kept(Path("run"))
    assert [8, 4] == [step for step in steps_kept(Path("run")) if step <= 8]
    monkeypatch.setattr(training, "loss", plain)
    assert 0 == run(config, Path("run"), resume=True, traced=False, quiet=True)["exit"]


@pytest.mark.tier3
def test_a_run_spoilt_before_its_first_checkpoint_says_so(config: Any, monkeypatch: Any) -> None:
    """Behavior: where there is no checkpoint to go back to, the message does not speak of one."""
    plain = training.initial_state

    def poisoned(*arguments: Any) -> Any:
        state = plain(*arguments)
        spoil(state, "weight", math.nan)
        return state

    said: list[str] = []
    monkeypatch.setattr(training, "initial_state", poisoned)
    assert 5 == run(config, Path("run"), traced=False, quiet=True, say=said.append)["exit"]
    assert "No checkpoint was saved: start a new run with another --out than run" in said[-1]
