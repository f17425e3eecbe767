"""The cord: each bound stops a run with a checkpoint, its verdict and exit code 4; no run starts behind a red gate."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from andon.core.config import CordConfig
from andon.core.training.loop import StepRecord
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.runs.cord import BOUNDS, make_cord, watched_weights
from andon.runs.run import from_scratch, run
from andon.runs.setup import RunSetup
from tests.andon.test_bad_input import toml
from tests.small_run import TABLES, small_config, write_corpus
from tests.tuning import andon

TIER = '[[tiers]]\nname = "t"\nsummary = "s"\n[[measures]]\nname = "m"\ntier = "t"\ncommand = "true"\nnext = "n"\n'


def record(step: int, loss: float = 2.0, norm: float = 1.0, *, skipped: bool = False) -> StepRecord:
    """A step of 100 tokens that took a tenth of a second."""
    return StepRecord(step, 0, loss, norm, 1e-3, 100, skipped, {"forward": 0.04, "backward": 0.06})


EDGES = [  # a key, the last value that passes, the first that stops, for windows of two such steps
    ("loss_above", 2.0, 1.999),
    ("grad_norm_above", 1.0, 0.999),
    ("tokens_per_second_below", 999.0, 1001.0),
]


@pytest.mark.tier2
@pytest.mark.parametrize(("key", "holds", "breaks"), EDGES)
def test_each_bound_at_its_edge(key: str, holds: float, breaks: float) -> None:
    """Behavior: a whole window within the bound goes on, one beyond it stops; half a window stops nothing."""
    for value, stops in ((holds, False), (breaks, True)):
        cord = make_cord(CordConfig.model_validate({"window_steps": 2, key: value}), None)
        assert cord(record(1)) is None
        assert stops == bool(cord(record(2)))


@pytest.mark.tier2
def test_one_spike_stops_nothing_and_early_steps_do_not_count() -> None:
    """Behavior: the median of the window is compared, and steps up to after_steps are ignored."""
    cord = make_cord(CordConfig(window_steps=3, loss_above=3.0, after_steps=1), None)
    losses = [9.0, 2.0, 9.0, 2.0, 9.0, 9.0]
    stopped = [step for step, loss in enumerate(losses, start=1) if cord(record(step, loss))]
    assert [5, 6] == stopped


@pytest.mark.tier2
def test_skipped_steps_are_counted_and_hold_no_loss() -> None:
    """Behavior: a skipped step's NaN is in no window; one more skipped step than allowed stops."""
    cord = make_cord(CordConfig(window_steps=1, loss_above=3.0, skipped_above=1), None)
    first, second = (cord(record(step, float("nan"), float("nan"), skipped=True)) for step in (1, 2))
    assert first is None
    assert second is not None
    assert [("cord.loss", "not measured"), ("cord.skipped", "red")] == [
        (check.name, check.state) for check in second.checks
    ]


@pytest.mark.tier2
def test_weights_that_nobody_watches_cost_no_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a run without cord.watch_weights starts without andon.verify."""
    monkeypatch.setitem(sys.modules, "andon.verify", None)
    state: Any = None
    with watched_weights(CordConfig(), state) as watch:
        assert watch is None


def thawed(state: Any) -> None:
    """Fault: a frozen embedding that code writes into, after each step."""
    weight = next(state.model.parameters())
    weight.requires_grad_(requires_grad=False)
    state.optimizer.register_step_post_hook(lambda *_: weight.data.add_(1.0))


def slow(state: Any) -> None:
    """Fault: each step waits."""
    state.optimizer.register_step_pre_hook(lambda *_: time.sleep(0.2))


def nothing(state: Any) -> None:
    """No change of the run: the configuration is the fault."""
    del state


FAULTS: dict[str, tuple[Callable[[Any], None], dict[str, Any], dict[str, Any]]] = {
    "cord.loss": (nothing, {"loss_above": 7.0, "window_steps": 2}, {"training.learning_rate": 30.0}),
    "cord.grad_norm": (nothing, {"grad_norm_above": 50.0, "window_steps": 2}, {"training.learning_rate": 30.0}),
    "cord.tokens_per_second": (slow, {"tokens_per_second_below": 400.0, "window_steps": 2}, {}),
    "cord.skipped": (nothing, {"skipped_above": 0}, {"training.learning_rate": 1e30, "training.grad_clip": 0}),
    "cord.weights": (thawed, {"watch_weights": True}, {}),
}


@pytest.mark.tier3
@pytest.mark.parametrize("name", FAULTS)
def test_an_injected_fault_stops_the_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: exit code 4, a checkpoint of the step that stopped it, and the verdict, said and beside the run."""
    monkeypatch.chdir(tmp_path)
    inject, bounds, changes = FAULTS[name]
    changes = {f"cord.{key}": value for key, value in bounds.items()} | changes
    config = small_config(write_corpus(tmp_path / "corpus"), ("training.max_steps", 30), *changes.items())
    said: list[str] = []

    def prepare(*arguments: Any) -> RunSetup:
        setup = from_scratch(*arguments)
        inject(setup.state)
        return setup

    result = run(config, tmp_path / "run", prepare=prepare, traced=False, quiet=True, say=said.append)
    assert (4, True) == (result["exit"], result["steps"] < 30)
    assert f"step-{result['steps']:08}" in {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    verdict = json.loads((tmp_path / "run" / "cord.json").read_text())
    assert [name] == [check["name"] for check in verdict["checks"] if check["state"] == "red"]
    assert f"RED: {name}" in said[-1]
    assert "--resume" in said[-1]


@pytest.mark.tier3
def test_without_the_fault_the_same_bounds_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: every bound set at once lets a run that learns end with 0, and the losses are those without bounds."""
    monkeypatch.chdir(tmp_path)
    paths = write_corpus(tmp_path / "corpus")
    bounds = {"loss_above": 7.0, "grad_norm_above": 50.0, "tokens_per_second_below": 1e-3, "skipped_above": 0}
    cords = [(f"cord.{key}", value) for key, value in (bounds | {"watch_weights": True}).items()]
    assert {bound.key for bound in BOUNDS} == {key.removeprefix("cord.") for key, _ in cords}
    results = [
        run(small_config(paths, *changes), tmp_path / name, traced=False, quiet=True, say=lambda text: None)
        for name, changes in (("with", cords), ("without", []))
    ]
    assert [0, 0] == [result["exit"] for result in results]
    assert results[0]["train_loss"] == results[1]["train_loss"]


@pytest.mark.tier3
def test_no_run_starts_behind_a_red_or_stale_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: without evidence, with red and with stale evidence nothing starts; behind a green gate it does."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus")
    tables = TABLES | {"training": TABLES["training"] | {"epochs": 1}}
    (tmp_path / "small.toml").write_text(toml(tables))
    (tmp_path / "andon.toml").write_text(TIER)
    (tmp_path / "code.py").write_text("a = 1\n")
    line = ("train", "small.toml", "--data", "corpus", "--out", "run", "--no-trace", "--require", "t")

    def evidence(exit_code: int) -> None:
        write_evidence(Evidence("m.run", "true", 1.0, digests(["code.py"]), {"exit_code": Metric(exit_code)}))

    for prepare in (lambda: None, lambda: evidence(1)):
        prepare()
        refused = andon(*line)
        assert 1 == refused.exit_code, refused.output
        assert "no run is started behind t RED; `andon gate run t` first" in refused.output
    evidence(0)
    (tmp_path / "code.py").write_text("a = 2\n")
    assert "code.py changed since it was measured" in " ".join(andon(*line).output.split())
    assert not (tmp_path / "run").exists()
    evidence(0)
    assert 0 == andon(*line).exit_code
