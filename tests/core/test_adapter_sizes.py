"""Parameters and bytes of LoRA and QLoRA by arithmetic, against built models and measured steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from andon.core.adapters.lora import add_lora, plan_lora
from andon.core.adapters.nf4 import quantize_model, quantize_nf4
from andon.core.adapters.targets import LoraError
from andon.core.config import Config, LoraConfig, load_config, parse_config
from andon.core.memory import adapter_sizes, sizes
from andon.core.memory.adapter_sizes import (
    adapter_memory_snapshots,
    adapter_shape_of,
    base_bytes,
    nf4_bytes,
    trainable_parameters,
)
from andon.core.memory.sizes import largest_micro_batch, shape_of, step_of
from andon.core.model.llama import Llama, build_model
from andon.core.training import loss
from andon.core.training.loop import AUTOCAST_DTYPES, initial_state_of
from andon.verify.observation.tensor_memory import TensorMemory
from tests.core import steps
from tests.core.steps import BLOCKS, CASES, TIED, WIDE, Case, nbytes, optimizer_step

CONFIGS = Path(__file__).parents[2] / "configs"
ALL, GATES = {"target_modules": "all-linear"}, {"target_modules": ["gate_proj"]}
LATE = {"target_modules": r"model\.layers\.1\.self_attn\.[qo]_proj"}
PATTERNS = {"target_modules": ["q_proj", "mlp.down_proj"], "rank_pattern": {"layers.0.*q_proj": 3, "down_proj": 5}}


def config(case: Case, lora: dict[str, Any] | None = None, **training: Any) -> Config:
    """A small run that adapts with rank 4 by default."""
    tables = steps.config(case, **training).model_dump()
    adapter = {"rank": 4} | (lora or {})
    double = adapter.pop("double_quantization", True)
    return parse_config(tables | {"lora": adapter, "qlora": adapter | {"double_quantization": double}}, "test")


@pytest.mark.tier2
@pytest.mark.parametrize(("name", "method", "number"), [("124m", "lora", 1_179_648), ("7b", "qlora", 67_108_864)])
def test_shipped_adapters_have_their_published_numbers_of_parameters(name: str, method: str, number: int) -> None:
    """Reference: r (inputs + outputs) by hand; and the adapter that a meta model of the same file would get."""
    run = load_config(CONFIGS / f"{name}.toml")
    assert number == trainable_parameters(shape_of(run), adapter_shape_of(run, method))
    with torch.device("meta"):
        planned = plan_lora(Llama(run.model), getattr(run, method)).values()
    assert number == sum(factors.rank * (factors.inputs + factors.outputs) for factors in planned)


@pytest.mark.tier2
def test_modules_are_those_of_the_model() -> None:
    """Reference: a built model's own, by name, with the sides of the linear ones."""
    run = config(WIDE)
    with torch.device("meta"):
        built = dict(Llama(run.model).named_modules())
    del built[""]
    sides = {
        name: (module.in_features, module.out_features) if isinstance(module, nn.Linear) else None
        for name, module in built.items()
    }
    assert sides == adapter_sizes.modules(shape_of(run))


@pytest.mark.tier2
@pytest.mark.parametrize("lora", [ALL, GATES, LATE, PATTERNS])
def test_targets_and_ranks_are_those_of_a_built_adapter(lora: dict[str, Any]) -> None:
    """Reference: what `plan_lora` finds in a built model, module by module."""
    run = config(TIED, lora)
    with torch.device("meta"):
        planned = plan_lora(Llama(run.model), run.lora)
    ranks = adapter_shape_of(run, "lora").ranks
    found = {f"model.layers.{layer}.{part}": rank for layer, table in enumerate(ranks) for part, rank in table.items()}
    assert {name: factors.rank for name, factors in planned.items()} == found
    assert sum(factors.rank * (factors.inputs + factors.outputs) for factors in planned.values()) == (
        trainable_parameters(shape_of(run), adapter_shape_of(run, "lora"))
    )


@pytest.mark.tier2
@pytest.mark.parametrize("lora", [{"target_modules": ["lm_head"]}, {"rank_pattern": {"up_proj": 8}}, {"rank": 65}])
def test_an_adapter_that_fits_no_module_is_refused(lora: dict[str, Any]) -> None:
    """Behavior: what a built model would refuse, by the same message."""
    run = config(BLOCKS, lora)
    with pytest.raises(LoraError) as planned:
        adapter_shape_of(run, "qlora")
    with torch.device("meta"), pytest.raises(LoraError) as built:
        plan_lora(Llama(run.model), run.qlora)
    assert str(built.value) == str(planned.value)


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("elements", [1, 63, 64, 65, 64 * 256 + 1, 3 * 64 * 256])
def test_bytes_of_nf4_are_those_of_the_quantized_tensor(elements: int, double: bool) -> None:
    """Reference: the tensors that quantizing makes, but for the 256 levels that all matrices share."""
    made = quantize_nf4(torch.ones(elements), double=double)
    nested = made.nested.absmax.nbytes + made.nested.offset.nbytes if made.nested else 0
    assert made.codes.nbytes + made.absmax.nbytes + nested == nf4_bytes(elements, double)


@pytest.mark.tier2
@pytest.mark.parametrize("accumulation_steps", [1, 4])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_parts_of_each_moment_sum_to_its_total(method: str, accumulation_steps: int) -> None:
    """Behavior: conservation; only adapters have gradients, and at the end all of them do."""
    run = config(TIED, ALL, accumulation_steps=accumulation_steps)
    found = adapter_sizes.snapshots_for(run, method)(step_of(run))
    trainable = 4 * trainable_parameters(shape_of(run), adapter_shape_of(run, method))
    for moment in found:
        assert moment.total == sum(moment[1:-1])
        assert min(moment[1:-1]) >= 0
        assert moment.gradients <= trainable
    assert trainable == found[-1].gradients


@pytest.mark.tier2
@pytest.mark.parametrize("name", ["1b", "7b"])
def test_4_bits_take_less_than_16_and_adapters_less_than_all(name: str) -> None:
    """Behavior: QLoRA's peak is below LoRA's, and LoRA's below full fine-tuning's; so its batches are larger."""
    run = load_config(CONFIGS / f"{name}.toml")
    moments = [adapter_sizes.snapshots_for(run, method) for method in ("qlora", "lora", "full")]
    peaks = [max(moment.total for moment in found(step_of(run))) for found in moments]
    assert sorted(peaks) == peaks
    rows = [largest_micro_batch(found, step_of(run), 80 * 10**9) for found in moments]
    assert sorted(rows, reverse=True) == rows


@pytest.mark.long
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"dtype": "bfloat16"},
        {"accumulation_steps": 2},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "dtype": "bfloat16"},
    ],
    ids=lambda training: " ".join(map(str, training.values())) or "plain",
)
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bytes_are_those_of_a_measured_step(
    case: Case, method: str, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: live tensors of a real second step. State is exact to the byte, the whole peak within 2%.

    Promised is a tenth; the narrower bound notices each of the arithmetic's terms.
    """
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", case[2])
    monkeypatch.setattr(sizes, "CHUNK_ELEMENTS", case[2])
    run = config(case, **training)
    assert_measured(run, method)


@pytest.mark.long
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize(
    "lora",
    [
        ALL,
        GATES,
        LATE,
        PATTERNS,
        {"dropout": 0.1},
        ALL | {"dropout": 0.1},
        {"rank": 32},
        {"double_quantization": False},
    ],
    ids=["all", "gates", "late", "patterns", "dropout", "all dropout", "rank", "single"],
)
@pytest.mark.parametrize("case", [BLOCKS, TIED], ids=["blocks", "tied"])
def test_bytes_follow_targets_ranks_and_dropout(case: Case, method: str, lora: dict[str, Any]) -> None:
    """Reference: as above, for adapters elsewhere than on q, k, v and o."""
    assert_measured(config(case, lora), method)


def assert_measured(run: Config, method: str) -> None:
    """Compare a step's arithmetic with what it does."""
    shape, step, tuning = shape_of(run), step_of(run), adapter_shape_of(run, method)
    expected = adapter_memory_snapshots(shape, step, tuning)
    model = build_model(run.model, 0, dtype=AUTOCAST_DTYPES.get(run.training.dtype, torch.float32))
    if method == "qlora":
        quantize_model(model, run.qlora.double_quantization)
    table: LoraConfig = getattr(run, method)
    base = [*model.parameters(), *model.buffers()]
    add_lora(model, table, torch.Generator().manual_seed(0))
    state = initial_state_of(model, run)
    assert expected[-1].gradients == optimizer_step(state, run)
    moments_kept = [tensor for entry in state.optimizer.state.values() for tensor in entry.values()]
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert expected[-1].optimizer == nbytes(moments_kept)
    storages = {tensor.untyped_storage()._cdata: tensor.nbytes for tensor in base}
    assert base_bytes(shape, step, tuning) == sum(storages.values())
    with TensorMemory([*base, *adapters, *moments_kept]) as measured:
        optimizer_step(state, run)
    assert pytest.approx(measured.peak, rel=0.02) == max(moment.total for moment in expected)
