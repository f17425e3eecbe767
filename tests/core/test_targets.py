"""Which modules are adapted, and with what rank and scale."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from andon.core.adapters.lora import LoraError, plan_lora
from andon.core.adapters.targets import Factors
from andon.core.config import LoraConfig, ModelConfig
from andon.core.model.llama import Llama
from tests.core.shapes import SHAPE

pytestmark = pytest.mark.tier1

ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
FEED_FORWARD = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def planned(**keys: Any) -> dict[str, Factors]:
    """The plan for the small shape: two layers, hidden size 16, two of four heads for keys, 20 in the middle."""
    with torch.device("meta"):
        model = Llama(ModelConfig.model_validate(SHAPE))
    return plan_lora(model, LoraConfig.model_validate({"rank": 2} | keys))


def refusal(**keys: Any) -> str:
    """The message with which it is refused."""
    with pytest.raises(LoraError) as caught:
        planned(**keys)
    return str(caught.value)


def of(*endings: str, layers: tuple[int, ...] = (0, 1)) -> list[str]:
    """Full names."""
    return [f"model.layers.{layer}.{ending}" for layer in layers for ending in endings]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "k_proj", "v_proj", "o_proj"], of(*ATTENTION)),
        (["self_attn.q_proj"], of("self_attn.q_proj")),
        (["model.layers.1.mlp.up_proj"], of("mlp.up_proj", layers=(1,))),
        (["down_proj", "0.self_attn.o_proj"], ["model.layers.0.self_attn.o_proj", *of("mlp.down_proj")]),
        (r"model\.layers\.0\.mlp\..*", of(*FEED_FORWARD, layers=(0,))),
        (r".*\.(q|v)_proj", of("self_attn.q_proj", "self_attn.v_proj")),
        ("all-linear", of(*ATTENTION, *FEED_FORWARD)),
    ],
)
def test_targets_are_chosen_as_peft_chooses(targets: list[str] | str, expected: list[str]) -> None:
    """Reference: PEFT: a listed name is whole or after a dot, one string is a pattern for whole names or a wildcard."""
    assert expected == list(planned(target_modules=targets))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["query"], "'query' matches no module; the linear ones end in down_proj, gate_proj, k_proj, o_proj, q_proj"),
        (["q_proj", "proj"], "'proj' matches no module"),
        ("q_proj", "'q_proj' matches no module"),
        (["lm_head"], "lm_head is computed inside the chunked loss and takes no adapter; choose among down_proj"),
        (".*(head|q_proj)", "lm_head is computed inside the chunked loss"),
        (["embed_tokens"], "model.embed_tokens is not a linear module"),
        (["input_layernorm"], "model.layers.0.input_layernorm is not a linear module"),
        ([r"self_attn"], "model.layers.0.self_attn is not a linear module"),
    ],
)
def test_a_target_that_cannot_be_adapted_is_refused(targets: list[str] | str, said: str) -> None:
    """Behavior: the message names the target and the linear modules there are; no misspelling is passed over."""
    assert said in refusal(target_modules=targets)


def test_rank_and_alpha_are_looked_up_apart() -> None:
    """Reference: PEFT: the first key that ends the module's name counts, and alpha does not follow a pattern's rank."""
    found = planned(
        rank=4,
        target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 2, "q_proj": 3},
        alpha_pattern={"0.self_attn.[qv]_proj": 12, "up_proj": 1.5},
    )
    ranks = {name.removeprefix("model.layers."): factors.rank for name, factors in found.items()}
    scales = {name.removeprefix("model.layers."): factors.scale for name, factors in found.items()}
    assert [3, 2, 4, 4] == [ranks[f"{n}.self_attn.{p}_proj"] for p in "qv" for n in (0, 1)]
    assert [12 / 3, 8 / 2, 12 / 4, 8 / 4] == [scales[f"{n}.self_attn.{p}_proj"] for p in "qv" for n in (0, 1)]
    assert (4, 1.5 / 4) == (ranks["1.mlp.up_proj"], scales["1.mlp.up_proj"])


def test_alpha_is_twice_the_rank_where_not_given() -> None:
    """Behavior: a scale of 2 at any rank; what is given counts, over the rank or, rank-stabilized, over its root."""
    assert {2.0} == {factors.scale for factors in planned(rank=5).values()}
    assert {3 / 5} == {factors.scale for factors in planned(rank=5, alpha=3).values()}
    assert {3 / math.sqrt(5)} == {factors.scale for factors in planned(rank=5, alpha=3, use_rslora=True).values()}


def test_a_pattern_that_describes_no_target_is_refused() -> None:
    """Behavior: a key that would do nothing is a mistake, and named."""
    for key in ("down_proj", "proj", "layers"):
        for pattern in ("rank_pattern", "alpha_pattern"):
            said = f"pattern '{key}' matches none of the targets, which end in k_proj, o_proj, q_proj, v_proj"
            assert said == refusal(**{pattern: {key: 2}})


def test_a_rank_above_a_matrix_is_refused() -> None:
    """Behavior: the module, its sides and the most it takes are named; at the edge it is accepted."""
    said = "rank=9 is above the smaller side of model.layers.0.self_attn.k_proj (8 x 16); choose at most 8"
    assert said == refusal(rank=9)
    assert 8 == planned(rank=8)["model.layers.0.self_attn.k_proj"].rank
    assert said.replace("rank=9", "rank=11") == refusal(rank=8, rank_pattern={"k_proj": 11})


def test_any_linear_module_counts_wherever_it_lies() -> None:
    """Behavior: what has two widths is linear, also outside a Llama; the model itself is not a target."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.LayerNorm(5), nn.Sequential(nn.Linear(5, 4, bias=False)))
    config = LoraConfig(rank=2, target_modules="all-linear")
    assert {"0": Factors(2, 3, 5, 2.0), "3.0": Factors(2, 5, 4, 2.0)} == plan_lora(model, config)
    for targets in ("all-linear", ["q_proj"]):
        with pytest.raises(LoraError, match=r"matches no module; the linear ones end in nothing"):
            plan_lora(nn.Linear(3, 5), LoraConfig(rank=2, target_modules=targets))
