"""What is counted: a step's own matrix products, and the FLOPs that utilization is a share of."""

import math

import pytest
import torch
from torch import nn

from andon.core.config import ModelConfig
from andon.core.model.llama import Llama
from tests.bench.measure import shipped_workload
from tests.bench.utilization import flops_a_token, peak_flops, utilization
from tests.bench.workload import Workload, product_flops, products
from tests.bench.yardstick import build_yardstick

GROUPED = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.tier1
def test_products_are_those_of_the_models_linear_layers() -> None:
    """The yardstick multiplies for every linear layer, the head too, and nothing else. (Reference: our meta model)"""
    with torch.device("meta"):
        model = Llama(ModelConfig.model_validate(GROUPED))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    wanted = sorted((module.in_features, module.out_features) for module in linear)
    assert wanted == sorted(tuple(product) for product in products(Workload(GROUPED)))


@pytest.mark.tier1
def test_flops_of_the_shipped_shape() -> None:
    """113,246,208 weights in the blocks and 24,576,000 in the head, six operations each a token. (Reference: count)"""
    workload = shipped_workload()
    assert 512 == workload.tokens
    assert 6 * 512 * (113_246_208 + 24_576_000) == product_flops(workload)


@pytest.mark.tier2  # the counter imports torch._dynamo
def test_the_yardstick_does_all_its_operations() -> None:
    """Its products cost what `product_flops` says, counted by torch as they run. (Reference: torch's FLOP counter)"""
    from torch.utils.flop_counter import FlopCounterMode

    workload = Workload(GROUPED, length=8)
    multiply = build_yardstick(workload)
    with FlopCounterMode(display=False) as counter:
        multiply()
    assert product_flops(workload) == counter.get_total_flops()


@pytest.mark.tier1
def test_a_workload_survives_the_way_to_its_worker() -> None:
    """A worker reads from JSON what the bench wrote. (Behavior)"""
    workload = Workload(GROUPED, rows=3, dtype="bfloat16")
    assert workload == Workload.from_json(workload.to_json())


@pytest.mark.tier1
def test_utilization_is_the_papers_formula() -> None:
    """(6 N + 12 L H Q T) tokens / seconds / peak, N without embedding and norms. (Reference: arXiv:2204.02311, B)"""
    workload = Workload(GROUPED, rows=2, length=8)
    weights = sum(math.prod(product) for product in products(workload))
    assert 6 * weights + 12 * 2 * 4 * 4 * 8 == flops_a_token(workload)
    assert flops_a_token(workload) * 16 / 0.5 / 989e12 == utilization(workload, 0.5, "NVIDIA H200")


@pytest.mark.tier1
def test_an_unknown_gpu_has_no_utilization() -> None:
    """A device that is not in the table gives None; one that is in it twice gives the closer name's. (Behavior)"""
    assert utilization(Workload(GROUPED), 1.0, "Imaginary 9000") is None
    assert (756e12, 989e12) == (peak_flops("NVIDIA H100 PCIe"), peak_flops("NVIDIA H100 80GB HBM3"))
