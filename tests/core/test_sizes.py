"""Parameters and bytes by arithmetic, against built models and measured steps."""

from pathlib import Path
from typing import Any

import pytest
import torch

from andon.core.config import load_config
from andon.core.memory import sizes
from andon.core.memory.sizes import (
    count_parameters,
    largest_micro_batch,
    memory_snapshots,
    peak_memory,
    shape_of,
    step_of,
)
from andon.core.model.llama import Llama, build_model
from andon.core.training import loss
from andon.core.training.loop import initial_state_of
from andon.verify.observation.tensor_memory import TensorMemory
from tests.core.steps import BLOCKS, CASES, TIED, WIDE, Case, config, nbytes, optimizer_step

CONFIGS = Path(__file__).parents[2] / "configs"
PUBLISHED = {"124m": 162_417_408, "1b": 1_100_048_384, "7b": 6_738_415_616}


@pytest.mark.tier1
@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_shapes_have_their_published_numbers_of_parameters(name: str) -> None:
    """Reference: the sums of the shapes' matrices; a meta model built from the file agrees tensor by tensor."""
    run = load_config(CONFIGS / f"{name}.toml")
    assert PUBLISHED[name] == count_parameters(shape_of(run)).total
    with torch.device("meta"):
        built = list(Llama(run.model).parameters())
    assert sum(tensor.numel() for tensor in built) == PUBLISHED[name]
    assert len(built) == sizes.parameter_tensors(shape_of(run))


@pytest.mark.tier1
@pytest.mark.parametrize("case", [BLOCKS, TIED, WIDE])
def test_parameters_by_part_are_those_of_the_built_model(case: Case) -> None:
    """Reference: the parameters of a built model, sorted by their names."""
    run = config(case)
    with torch.device("meta"):
        built = dict(Llama(run.model).named_parameters())

    def count(*words: str) -> int:
        return sum(tensor.numel() for name, tensor in built.items() if any(word in name for word in words))

    norms = count("norm")
    counted = count_parameters(shape_of(run))
    assert (count("embed"), count("self_attn"), count("mlp."), norms, count("lm_head")) == counted[:5]
    assert sum(counted[:5]) == counted.total


@pytest.mark.tier1
@pytest.mark.parametrize("accumulation_steps", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_of_each_moment_sum_to_its_total(dtype: str, accumulation_steps: int) -> None:
    """Behavior: conservation; gradients never exceed one per parameter, and only the last moment has them all alone."""
    run = config(TIED, dtype=dtype, accumulation_steps=accumulation_steps)
    found = memory_snapshots(shape_of(run), step_of(run))
    every = 4 * count_parameters(shape_of(run)).total
    for moment in found:
        assert moment.total == sum(moment[1:-1])
        assert min(moment[1:-1]) >= 0
        assert moment.gradients <= every
    assert (every, every) == (found[-1].weights, found[-1].gradients)
    assert max(moment.total for moment in found) == peak_memory(shape_of(run), step_of(run)).total


@pytest.mark.tier1
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("memory", [10**9, 24 * 10**9, 141 * 10**9, 10**13])
def test_the_largest_batch_fits_and_one_row_more_does_not(name: str, memory: int) -> None:
    """Behavior: its peak is within memory, that of one row more is not; 0 where one row is too much."""
    run = load_config(CONFIGS / f"{name}.toml")
    shape, step = shape_of(run), step_of(run)
    rows = largest_micro_batch(lambda step: memory_snapshots(shape, step), step, memory)
    assert rows == 0 or peak_memory(shape, step._replace(rows=rows)).total <= memory
    assert peak_memory(shape, step._replace(rows=rows + 1)).total > memory


@pytest.mark.tier3
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"accumulation_steps": 2},
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "dtype": "bfloat16"},
    ],
    ids=lambda training: " ".join(map(str, training.values())) or "plain",
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bytes_are_those_of_a_measured_step(
    case: Case, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: live tensors of a real second step. State is exact to the byte, what it adds at its peak within 2.5%.

    Promised is a tenth of the whole peak; the arithmetic is closer, and the narrower bound notices each of its terms.
    """
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", case[2])
    monkeypatch.setattr(sizes, "CHUNK_ELEMENTS", case[2])
    run = config(case, **training)
    expected = memory_snapshots(shape_of(run), step_of(run))
    state = initial_state_of(build_model(run.model, 0), run)
    assert expected[-1].gradients == optimizer_step(state, run)
    moments_kept = [tensor for entry in state.optimizer.state.values() for tensor in entry.values()]
    weights = list(state.model.parameters())
    assert expected[-1].optimizer == nbytes(moments_kept)
    assert expected[-1].weights == nbytes(weights)
    with TensorMemory([*weights, *moments_kept]) as measured:
        optimizer_step(state, run)
    state_bytes = expected[-1].weights + expected[-1].optimizer
    highest = max(moment.total for moment in expected)
    assert pytest.approx(measured.peak - state_bytes, rel=0.025) == highest - state_bytes
