"""The adapters' figures follow from their records, and every published threshold has a value that turns it red."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, write_evidence
from andon.gates.judge import judge
from tests import learn
from tests.bench import adapters, tables
from tests.bench.environments import PEERS
from tests.bench.test_measure import SMALL, resident, timed
from tests.bench.workload import Workload

pytestmark = pytest.mark.tier2

NF4 = {"relative_error": 0.0934, "bits": 4.12, "file_bits": 4.15, "loss_whole": 2.0, "loss_bitsandbytes": 2.3}
MEASURED = adapters.Measured(
    times={
        method: {"ours": [timed(1.2), timed(1.21)], "peft": [timed(2.0), timed(2.0)]} for method in adapters.METHODS
    },
    memories={method: {"ours": [resident(60)], "peft": [resident(100)]} for method in adapters.METHODS},
    live={method: {"ours": [{"live": 90}], "peft": [{"live": 100}]} for method in adapters.METHODS},
    nf4={
        "single": NF4 | {"loss": 2.3},
        "double": NF4 | {"loss": 2.3},
        "speed": {"ours": 1.0, "bitsandbytes": 0.5, "gather": 9.0},
    },
)
LORA = {"finetune": {"loss_before": 2.0, "loss_after": 1.5, "base_unchanged": True}}
QLORA = {"finetune": {"loss_before": 2.3, "loss_after": 1.6, "base_unchanged": True}}
GOOD: dict[str, dict[str, Metric]] = {
    "bench": {
        "step_over_products": Metric(1.2),
        "step_vs_huggingface_upper": Metric(0.9),
        "step_vs_litgpt_upper": Metric(0.9),
        "memory_vs_huggingface": Metric(0.6),
        "help_seconds": Metric(0.2),
    },
    "bench_adapters": adapters.metrics(adapters.summarize(MEASURED, Workload(SMALL))),
    "learn_adapters": learn.metrics(learn.summarize(LORA, QLORA)),
}
GATES = load_gates(Path(__file__).parents[2] / "configs" / "gates.toml")
BAD = {"<": 0.0, "<=": 1e-3, ">=": -1e-3, ">": 0.0, "==": 1.0}  # from the threshold on, what is just too much
THRESHOLDS = [(tier, threshold) for tier in GOOD for threshold in GATES.thresholds_of(tier)]


def states(tier: str, metrics: dict[str, Metric], folder: Path) -> dict[str, str]:
    """The state of each check, by its name."""
    write_evidence(Evidence(tier, "command", 1.0, {}, metrics), folder)
    return {check.name: check.state for check in judge(tier, GATES, folder).checks}


@pytest.mark.parametrize("tier", GOOD)
def test_good_figures_pass_and_every_metric_that_is_judged_exists(tier: str, tmp_path: Path) -> None:
    """Figures that reach everything are green, so that what turns red below is the injected value. (Behavior)"""
    assert {"pass"} == set(states(tier, GOOD[tier], tmp_path).values())


@pytest.mark.parametrize(("tier", "threshold"), THRESHOLDS, ids=lambda each: getattr(each, "metric", each))
def test_each_threshold_goes_red_alone(tier: str, threshold: Any, tmp_path: Path) -> None:
    """A value just beyond a threshold, and one that was not measured, turn it red and nothing else. (Behavior)"""
    name = threshold.metric.partition(".")[2]
    for value in (threshold.value + BAD[threshold.operator], None):
        found = states(tier, GOOD[tier] | {name: Metric(value)}, tmp_path)
        assert [threshold.metric] == [check for check, state in found.items() if state == "red"]


def test_the_tables_show_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios, shares and losses stand in the tables as they were summarized, once through JSON. (Behavior)"""
    monkeypatch.setattr(tables, "BENCH", tmp_path / "absent.json")
    content = adapters.summarize(MEASURED, Workload(SMALL)) | {"peers": {name: " ".join(PEERS[name]) for name in PEERS}}
    content["machine"] = {"processor": "Example Processor", "date": "2026-01-02"}
    content = json.loads(json.dumps(content))
    text = tables.adapters(content)
    assert "| Andon, LoRA " in text
    assert "0.60 of the rest, 0.90 of all tensors" in text
    assert "| NF4, double quantization |" in tables.nf4(content)
    assert "at 0.50 x the speed of bitsandbytes and 9.00 x that" in tables.nf4(content)


def test_what_4_bits_keep() -> None:
    """(q0 - q1) / (q0 - l1): of the way from the NF4 base to LoRA's loss. (Reference: the definition)"""
    found = learn.summarize(LORA, QLORA)
    assert (2.3 - 1.6) / (2.3 - 1.5) == pytest.approx(found["kept_share"])
    assert 25 == pytest.approx(found["lora_fall_percent"])


@pytest.mark.parametrize("loss", [None, 2.4])
def test_what_cannot_be_compared_is_null(loss: float | None) -> None:
    """Without LoRA's loss, or with one above where QLoRA begins, there is no share: null, never a pass. (Behavior)"""
    lora = {"finetune": LORA["finetune"] | {"loss_after": loss}}
    assert learn.summarize(lora, QLORA)["kept_share"] is None


def test_a_changed_base_is_counted() -> None:
    """A run that changed what it had frozen is red, whatever its loss. (Behavior)"""
    changed = {"finetune": QLORA["finetune"] | {"base_unchanged": False}}
    assert learn.summarize(LORA, changed)["changed"] == 1


def test_all_four_take_turns() -> None:
    """LoRA and QLoRA, ours and theirs, follow each other in every round. (Behavior)"""
    jobs = adapters.schedule(rounds=2, repeats=3, memory_rounds=1)
    turn = [("ours", "lora"), ("peft", "lora"), ("ours", "qlora"), ("peft", "qlora")]
    assert turn * 4 == [(job.implementation, job.method) for job in jobs]
    assert ["time:3", "time:3", "memory", "live"] == [job.task for job in jobs[::4]]


def test_the_yardstick_does_the_products_of_a_lora_step() -> None:
    """Forward and input gradients of frozen layers, six products an adapter. (Reference: torch's FLOP counter)"""
    from torch.utils.flop_counter import FlopCounterMode

    from tests.bench.yardstick import build_yardstick

    workload = Workload(SMALL, length=8, method="lora", rank=2)
    with FlopCounterMode(display=False) as counter:
        build_yardstick(workload)()
    wide, keys, inner, vocabulary, blocks = 32, 16, 48, 96, 2
    adapted = [(wide, wide), (wide, keys), (wide, keys), (wide, wide)]
    frozen = blocks * (sum(i * o for i, o in adapted) + 3 * wide * inner) + wide * vocabulary
    first = sum(i * o for i, o in adapted[:3])  # below them is the embedding, which takes no gradient
    narrow = blocks * sum(3 * 2 * (i + o) for i, o in adapted) - sum(2 * i for i, _ in adapted[:3])
    assert 2 * workload.tokens * (2 * frozen - first + narrow) == counter.get_total_flops()


def test_our_lora_is_what_the_bench_trains() -> None:
    """Adapters alone are trained, of the workload's rank, and QLoRA's base holds 4 bits. (Behavior)"""
    from andon.core.adapters.nf4 import NF4Linear
    from tests.bench.ours import start

    for method, matrices in (("lora", 0), ("qlora", 14)):
        run = start(Workload(SMALL, length=16, method=method, rank=4, threads=1))
        trained = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
        assert 2 * 2 * 4 == len(trained)
        assert all(4 in parameter.shape for parameter in trained)
        assert matrices == sum(isinstance(module, NF4Linear) for module in run.model.modules())


def test_a_workload_says_its_method() -> None:
    """The method and the rank reach the worker. (Behavior)"""
    workload = Workload(SMALL, method="qlora", rank=8)
    assert asdict(workload) == asdict(Workload.from_json(workload.to_json()))
