"""The bench compares only what is alike, in turn, and says what it could not have."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from andon.gates.evidence import read_evidence
from tests.bench import environments, gpu
from tests.bench.environments import BenchError, interpreter, requirements, worker_variables
from tests.bench.measure import NAMES, Measured, check_alike, run_worker, schedule
from tests.bench.ratios import paired
from tests.bench.summary import metrics, summarize
from tests.bench.workload import Workload, products

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def timed(step: float, **changes: Any) -> dict[str, Any]:
    """A worker's record of two steps between products of one second."""
    phases = {"forward": 0.3 * step, "backward": 0.6 * step, "clip": 0.04 * step, "optimizer": 0.06 * step}
    record = {"losses": [3.0, 2.5], "steps": [step, step], "products": [1.0, 1.0, 1.0], "phases": [phases, phases]}
    return record | {"torch": "2.13.0", "threads": 2} | changes


def resident(own: int | None) -> dict[str, Any]:
    """A worker's record of memory."""
    state = {"weights": 10, "gradients": 10, "optimizer": 20, "imported": 60}
    return state | {"peak": None if own is None else 100 + own}


def measured(own: int | None = 70) -> Measured:
    """Three rounds in which we take 1.25, 1.26 and 1.24 of the products, and each peer 1.4."""
    ours = [timed(1.25), timed(1.26), timed(1.24)]
    times = {name: [timed(1.4)] * 3 for name in NAMES} | {"ours": ours}
    memories = {name: [resident(100)] for name in NAMES} | {"ours": [resident(own)]}
    return Measured(times, memories, [0.3, 0.1, 0.2])


@pytest.mark.tier1
def test_implementations_take_turns() -> None:
    """Each round has every implementation once, in the same order, and memory comes after. (Behavior)"""
    jobs = schedule(rounds=2, repeats=5, memory_rounds=1)
    assert [*NAMES, *NAMES, *NAMES] == [job.implementation for job in jobs]
    assert ["time:5"] * 6 + ["memory"] * 3 == [job.task for job in jobs]


@pytest.mark.tier1
def test_figures_are_those_of_the_records() -> None:
    """Ratios, shares and medians follow from the records, and metrics take the unfavorable bound. (Behavior)"""
    found = summarize(measured(), Workload(SMALL))
    values = {name: metric.value or 0.0 for name, metric in metrics(found).items()}
    assert 1.25 == pytest.approx(values["step_over_products"], abs=1e-4)
    assert (0.7, 0.2) == (values["memory_vs_huggingface"], values["help_seconds"])
    assert found["ours_over"]["litgpt"]["high"] == values["step_vs_litgpt_upper"]
    assert paired([1.25, 1.26, 1.24], [1.4] * 3).high == pytest.approx(values["step_vs_huggingface_upper"])
    assert (1.25, 1.0) == (found["seconds"]["ours"]["step"], found["seconds"]["ours"]["products"])
    assert 0.6 * 1.25 == found["seconds"]["ours"]["backward"]
    assert found == json.loads(json.dumps(found))


@pytest.mark.tier1
def test_memory_that_no_platform_told_is_null() -> None:
    """A worker that could not ask for its memory leads to null, not to a number that passes. (Behavior)"""
    assert metrics(summarize(measured(own=None), Workload(SMALL)))["memory_vs_huggingface"].value is None


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("record", "message"),
    [
        (timed(1.4, losses=[3.0, 2.6]), "litgpt had loss 2.6 at step 2, ours 2.5"),
        (timed(1.4, losses=[3.0, float("nan")]), "litgpt had loss nan at step 2"),
        (timed(1.4, torch="2.12.0"), "torch 2.12.0, ours with 2.13.0"),
        (timed(1.4, threads=1), "threads 1, ours with 2"),
    ],
)
def test_what_is_not_the_same_training_is_not_compared(record: dict[str, Any], message: str) -> None:
    """Another loss, torch or number of threads ends the bench, with both values in the message. (Behavior)"""
    records = {"ours": [timed(1.2)], "litgpt": [timed(1.4), record]}
    with pytest.raises(BenchError, match=message):
        check_alike(records, 1e-4)


@pytest.mark.tier1
def test_workers_share_their_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What steers an allocator or a thread pool is dropped, and all workers get the same rest. (Behavior)"""
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("ANDON_TEST_KEPT", "yes")
    found = worker_variables(threads=2)
    assert ("2", "yes", False) == (found["OMP_NUM_THREADS"], found["ANDON_TEST_KEPT"], "MALLOC_ARENA_MAX" in found)


@pytest.mark.tier1
def test_peers_get_our_torch() -> None:
    """Each peer's environment is pinned to the torch and numpy that ours runs on. (Behavior)"""
    import torch

    assert f"torch=={torch.__version__.partition('+')[0]}" == requirements("litgpt")[0]


@pytest.mark.tier1
def test_an_environment_is_built_once_and_again_when_its_content_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stamp of what was installed decides; a build that failed leaves none, and the error shows pip's. (Behavior)"""
    ran: list[list[str]] = []

    def build(_: str, command: list[str]) -> None:
        ran.append(command)
        (tmp_path / "litgpt").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "_run", build)
    said: list[str] = []
    assert tmp_path / "litgpt" / "bin" / "python" == interpreter("litgpt", said.append, tmp_path)
    assert (2, 1) == (len(ran), len(said))
    interpreter("litgpt", said.append, tmp_path)
    assert 2 == len(ran)
    monkeypatch.setitem(environments.PEERS, "litgpt", ("litgpt==0.5.12",))
    interpreter("litgpt", said.append, tmp_path)
    assert (4, "litgpt==0.5.12") == (len(ran), ran[-1][-1])


@pytest.mark.tier1
def test_a_failed_build_shows_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment means no comparison: the error names the peer and the end of the output. (Behavior)"""
    monkeypatch.setattr(environments.sys, "executable", "/bin/false")
    with pytest.raises(BenchError, match=r"litgpt: .*venv.* failed"):
        interpreter("litgpt", lambda _: None, tmp_path)


@pytest.mark.tier1
def test_without_a_gpu_every_figure_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's bench says "not measured", leaves null evidence and exits 3; a committed figure stays. (Behavior)"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "device_name", lambda: None)
    said: list[str] = []
    monkeypatch.setattr(gpu.click, "echo", lambda line, **_: said.append(line))
    assert 3 == gpu.main()
    assert ["not measured: no CUDA device"] == said
    assert {None} == {metric.value for metric in read_evidence("bench_gpu").metrics.values()}
    assert not Path("reports/baselines").exists()


@pytest.mark.long
@pytest.mark.parametrize("task", ["time:2", "steps:2", "memory"])
def test_a_worker_measures_our_training_in_a_fresh_process(task: str) -> None:
    """Its record holds what the summary reads, and its losses fall from ln V as training's do. (Behavior)"""
    workload = Workload(SMALL, length=16, learning_rate=1e-2, threads=1)
    record = run_worker("ours", Path(sys.executable), task, workload, worker_variables(threads=1))
    assert math.log(SMALL["vocab_size"]) == pytest.approx(record["losses"][0], rel=0.02)
    assert record["losses"] == sorted(record["losses"], reverse=True)
    if task == "memory":
        weights = 4 * (sum(math.prod(product) for product in products(workload)) + 96 * 32 + 5 * 32)
        assert (weights, weights) == (record["weights"], record["gradients"])
        assert 2 * weights < record["optimizer"] < 2.1 * weights
        assert sys.platform != "linux" or record["imported"] < record["peak"]
    else:
        assert 2 == len(record["steps"]) == len(record["phases"])
        assert ("products" in record) == (task == "time:2")


@pytest.mark.long
def test_a_worker_that_fails_says_why() -> None:
    """An implementation that cannot be imported ends the bench with the worker's own last lines. (Behavior)"""
    with pytest.raises(BenchError, match="No module named"):
        run_worker("imaginary", Path(sys.executable), "memory", Workload(SMALL), worker_variables(threads=1))


@pytest.mark.tier2
def test_the_peers_loop_trains_as_ours_does() -> None:
    """Our model in the loop that peers are measured in has the losses of our own loop: one training. (Behavior)"""
    from andon.core.config import ModelConfig
    from andon.core.data.batch import Batch
    from andon.core.model.llama import build_model
    from andon.core.training.loss import loss
    from tests.bench.inputs import fill, inputs_and_labels
    from tests.bench.ours import start
    from tests.bench.run import plain_steps

    workload = Workload(SMALL, length=16, learning_rate=1e-2, clip=0.1)
    model = build_model(ModelConfig.model_validate(SMALL), seed=0)
    fill(model.named_parameters())
    batch = Batch(*inputs_and_labels(workload), None)
    theirs, ours = plain_steps(model, lambda: loss(model, batch), workload), start(workload)
    for _ in range(4):
        assert next(ours.steps).loss == pytest.approx(next(theirs.steps).loss, rel=1e-4)
