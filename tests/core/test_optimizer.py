"""The optimizer against torch's clipping and plain AdamW."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from andon.core.config import ModelConfig, TrainingConfig
from andon.core.model.llama import Llama, build_model
from andon.core.training.optimizer import build_optimizer, gradient_norm, step
from tests.core.shapes import SHAPE
from tests.tolerances import TOLERANCE, distance

pytestmark = pytest.mark.tier2  # an optimizer imports torch._dynamo, a second
TRAINING = TrainingConfig(weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6)


def model(**changes: Any) -> Llama:
    """A small model with a gradient of known spread everywhere."""
    built = build_model(ModelConfig.model_validate(SHAPE | changes), 0)
    fill(built, 0)
    return built


def fill(built: Llama, seed: int, factor: float = 1.0) -> None:
    """New gradients, `factor` times a draw that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in built.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * factor


def members(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("tied", [False, True])
def test_groups_partition_the_parameters(tied: bool) -> None:
    """Behavior: each parameter is in one group, once, a tied head too; matrices decay and vectors do not."""
    built = model(tie_word_embeddings=tied)
    optimizer = build_optimizer(built, TRAINING)
    assert sorted(map(id, built.parameters())) == sorted(map(id, members(optimizer)))
    assert {(2, 0.3), (1, 0.0)} == {
        (parameter.dim(), group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }


def test_what_is_frozen_is_left_out() -> None:
    """Behavior: frozen parameters are in no group, have no state, and no group is empty."""
    built = model()
    for name, parameter in built.named_parameters():
        parameter.requires_grad_("q_proj" in name)
    optimizer = build_optimizer(built, TRAINING)
    assert [2] == [len(group["params"]) for group in optimizer.param_groups]
    frozen = {name: weight.clone() for name, weight in built.state_dict().items() if "q_proj" not in name}
    step(optimizer, 0.1, 1.0, 0.0, 1.0)
    assert all(torch.equal(weight, built.state_dict()[name]) for name, weight in frozen.items())
    assert len(optimizer.state) == 2


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
def test_three_steps_are_those_of_plain_adamw_after_torchs_clipping(clip: float, scale: float) -> None:
    """Reference: clip_grad_norm_ and single-tensor AdamW; not clipped, clipped, and clipped only where above."""
    ours = model()
    reference = copy.deepcopy(ours)
    optimizer = build_optimizer(ours, TRAINING)
    matrices = [parameter for parameter in reference.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in reference.parameters() if parameter.dim() == 1]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.8, 0.9),
        eps=1e-6,
        foreach=False,
    )
    for seed, rate in enumerate([0.1, 0.02, 0.3]):
        fill(ours, seed, scale)
        fill(reference, seed)
        norm = float(gradient_norm(optimizer)) / scale
        expected = torch.nn.utils.clip_grad_norm_(reference.parameters(), clip or torch.inf)
        assert pytest.approx(float(expected), rel=1e-5) == norm
        step(optimizer, rate, norm, clip, scale)
        for group in plain.param_groups:
            group["lr"] = rate
        plain.step()
    for actual, wanted in zip(ours.parameters(), reference.parameters(), strict=True):
        # clip_grad_norm_ divides by norm + 1e-6, which float32 sees in its last bits
        assert distance(actual.detach(), wanted.detach()) < TOLERANCE[torch.float32]
    for actual, wanted in zip(moments(optimizer, ours), moments(plain, reference), strict=True):
        assert distance(actual, wanted) < TOLERANCE[torch.float32]


def moments(optimizer: torch.optim.Optimizer, built: Llama) -> list[Tensor]:
    """Both moments and the step count of each parameter, in the model's order."""
    return [
        optimizer.state[parameter][key] for parameter in built.parameters() for key in ("exp_avg", "exp_avg_sq", "step")
    ]


def test_a_step_frees_the_gradients_and_leaves_nothing_behind() -> None:
    """Behavior: gradients are None, and what was said to the fused kernel is gone, for the next step says its own."""
    built = model()
    optimizer = build_optimizer(built, TRAINING)
    step(optimizer, 0.1, 10.0, 1.0, 1.0)
    assert all(parameter.grad is None for parameter in built.parameters())
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


def test_the_norm_is_of_all_gradients_together() -> None:
    """Reference: 3-4-5. Parameters without a gradient count nothing."""
    built = model()
    optimizer = build_optimizer(built, TRAINING)
    optimizer.zero_grad(set_to_none=True)
    first, *_, last = built.parameters()
    first.grad, last.grad = torch.zeros_like(first), torch.zeros_like(last)
    first.grad.view(-1)[1], last.grad.view(-1)[0] = 3.0, 4.0
    assert float(gradient_norm(optimizer)) == 5.0


def test_a_single_matrix_is_stepped_where_it_lies() -> None:
    """Behavior: whatever torch's default device is, moments and what a step makes lie beside the parameter."""
    layer = torch.nn.Linear(3, 3, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones(3, 3)
    with torch.device("meta"):
        optimizer = build_optimizer(layer, TRAINING)
        assert ["cpu"] * 3 == [moment.device.type for moment in optimizer.state[layer.weight].values()]
        step(optimizer, 0.1, 3.0, 1.0, 1.0)
    assert (layer.weight != before).all()
