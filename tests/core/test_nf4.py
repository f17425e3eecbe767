"""NF4: the levels, rounding, blocks, double quantization, and the linear map on it."""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from andon.core.adapters import nf4 as quant
from andon.core.adapters.lora import add_lora
from andon.core.adapters.nf4 import (
    LEVELS,
    NF4Linear,
    QuantError,
    bits_per_parameter,
    dequantize_absmax,
    dequantize_model,
    dequantize_nf4,
    dynamic_levels,
    nf4_levels,
    quantize_model,
    quantize_nf4,
)
from andon.core.adapters.nf4_blocks import BLOCK, NESTED_BLOCK
from andon.core.config import LoraConfig, ModelConfig
from andon.core.model.llama import Llama, build_model
from andon.verify.observation.tensor_memory import TensorMemory
from tests.core.shapes import SHAPE
from tests.core.stored import normal
from tests.tolerances import TOLERANCE, distance

CPU = torch.device("cpu")
AWKWARD = [(1,), (3, 5), (64,), (65,), (7, 13), (64, 257), (BLOCK * NESTED_BLOCK + 1,)]


def new_model() -> Llama:
    """A tiny model with weights."""
    return build_model(ModelConfig(**SHAPE), seed=0)


@pytest.mark.tier2
def test_levels_are_the_normal_quantiles() -> None:
    """Reference: appendix E of the paper, from Python's own normal distribution.

    The outermost probability is the mean of 1 - 1/30 and 1 - 1/32; from there to 1/2 go eight equal steps on the
    positive side and seven on the negative; all is divided by the largest.
    """
    outermost = (1 - 1 / 30 + 1 - 1 / 32) / 2

    def side(steps: int) -> list[float]:
        inverse = NormalDist().inv_cdf
        return [inverse(outermost + (0.5 - outermost) * step / steps) for step in range(steps)]

    positive, negative = side(8), side(7)
    levels = [
        *(-value / negative[0] for value in negative),
        0.0,
        *(value / positive[0] for value in reversed(positive)),
    ]
    assert levels == pytest.approx(list(LEVELS), abs=2e-7)
    assert [-1.0, 0.0, 1.0] == [LEVELS[0], LEVELS[7], LEVELS[15]]


@pytest.mark.tier2
def test_levels_of_absmaxes_are_seven_decades_of_doubling_resolution() -> None:
    """Reference: section 2.2 of arXiv:1511.04561: the middles of decade i, cut into 2^i equal steps."""
    positive = [
        10 ** (power - 6) * (0.1 + 0.9 * (step + 0.5) / 2**power) for power in range(7) for step in range(2**power)
    ]
    expected = sorted([*positive, *(-level for level in positive), 0.0, 1.0])
    assert expected == pytest.approx(dynamic_levels(CPU).tolist(), rel=1e-6)
    assert 256 == len(expected)


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
def test_nothing_depends_on_the_default_dtype(double: bool) -> None:
    """Behavior: tables and values are those of float32 where torch's default is bfloat16."""
    weight = normal(9, 100)
    expected = dequantize_nf4(quantize_nf4(weight, double=double))
    tables = nf4_levels, dynamic_levels, quant._level_pairs
    torch.set_default_dtype(torch.bfloat16)
    try:
        for table in tables:
            table.cache_clear()
        assert torch.equal(expected, dequantize_nf4(quantize_nf4(weight, double=double)))
        assert torch.tensor(LEVELS, dtype=torch.float32).equal(nf4_levels(CPU))
    finally:
        torch.set_default_dtype(torch.float32)
        for table in tables:
            table.cache_clear()


@pytest.mark.tier2
def test_the_first_of_two_weights_is_in_the_high_nibble() -> None:
    """Reference: counted by hand: sixteen levels in their order are the codes 0 to 15."""
    stored = quantize_nf4(3 * torch.tensor(LEVELS), double=False)
    assert [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF] == stored.codes.tolist()
    assert [3.0] == stored.absmax.tolist()


@pytest.mark.tier2
@pytest.mark.parametrize("shape", AWKWARD)
def test_each_weight_becomes_the_nearest_level_of_its_block(shape: tuple[int, ...]) -> None:
    """Reference: all sixteen distances; half the largest gap bounds the error."""
    weight = normal(*shape)
    stored = quantize_nf4(weight, double=False)
    assert -(-weight.numel() // BLOCK) == len(stored.absmax)
    blocks = [block / block.abs().max() for block in weight.flatten().split(BLOCK)]
    nearest = torch.cat([(block[:, None] - torch.tensor(LEVELS)).abs().argmin(1) for block in blocks])
    codes = torch.stack((stored.codes >> 4, stored.codes & 15), dim=1).flatten()[: weight.numel()]
    assert torch.equal(nearest, codes.long())
    back = dequantize_nf4(stored)
    assert (weight.shape, weight.dtype) == (back.shape, back.dtype)
    gap = max(above - below for below, above in pairwise(LEVELS)) / 2
    assert ((back - weight).abs() <= gap * weight.abs().max() * (1 + 1e-6)).all()


@pytest.mark.tier2
def test_a_weight_halfway_between_two_levels_becomes_the_lower() -> None:
    """Behavior: one ulp above the middle it is the upper; so does bitsandbytes."""
    middles = (nf4_levels(CPU)[:-1] + nf4_levels(CPU)[1:]) / 2
    one = torch.ones(1)
    for nudged, lift in ((middles, 0), (middles.nextafter(one), 1)):
        codes = quantize_nf4(torch.cat((one, nudged)), double=False).codes
        assert [15, *(index + lift for index in range(15))] == [
            code for byte in codes.tolist() for code in divmod(byte, 16)
        ]


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
def test_slabs_leave_no_seam(double: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a tensor of many slabs gives what one slab gives, to the bit."""
    weight = normal(5, 77)
    whole = quantize_nf4(weight, double=double)
    values = dequantize_nf4(whole)
    monkeypatch.setattr(quant, "SLAB", 2 * BLOCK)
    assert torch.equal(whole.codes, quantize_nf4(weight, double=double).codes)
    assert torch.equal(dequantize_absmax(whole), dequantize_absmax(quantize_nf4(weight, double=double)))
    assert torch.equal(values, dequantize_nf4(whole))


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(200),
        torch.full((130,), 1e-45),
        torch.cat((torch.full((64,), 3e38), torch.full((64,), 1e-30))),
        torch.cat((normal(127), torch.tensor([1e30]))),
    ],
    ids=["zeros", "denormals", "extremes", "outlier"],
)
def test_extremes_stay_finite(weight: Tensor, double: bool) -> None:
    """Behavior: nothing overflows; a block's largest weight keeps its sign and zeros stay zero in single."""
    back = dequantize_nf4(quantize_nf4(weight, double=double))
    assert back.isfinite().all()
    if not double:
        assert (back[weight == 0] == 0).all()
        assert weight.max() == back.max() or weight.max() < 1e-38


@pytest.mark.tier2
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("position", [0, 129])
def test_what_is_not_finite_is_refused_by_name(value: float, position: int) -> None:
    """Behavior: wherever it stands, in a last, shorter block too."""
    weight = normal(130)
    weight[position] = value
    with pytest.raises(QuantError, match=r"q_proj\.weight holds infinity or NaN"):
        quantize_nf4(weight, name="q_proj.weight")


@pytest.mark.tier2
def test_nothing_is_refused() -> None:
    """Behavior: an empty tensor has no absmax."""
    with pytest.raises(QuantError, match="tensor is empty"):
        quantize_nf4(torch.empty(0, 3))


@pytest.mark.tier2
def test_bits_a_parameter_are_counted_from_what_is_stored() -> None:
    """Reference: 4 + 32 / 64 bits; 4 + 8 / 64 + 32 / (64 x 256) with double quantization."""
    weight = normal(64, 256)
    assert bits_per_parameter([quantize_nf4(weight, double=False)] * 2) == 4.5
    assert bits_per_parameter([quantize_nf4(weight)]) == pytest.approx(4.127, abs=5e-4)


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_are_products_in_fp32_rounded_once(dtype: torch.dtype) -> None:
    """Reference: level times absmax in fp32, then the cast."""
    stored = quantize_nf4(normal(3, 100))
    codes = torch.stack((stored.codes >> 4, stored.codes & 15), dim=1).flatten().long()
    scales = dequantize_absmax(stored).repeat_interleave(BLOCK)[: len(codes)]
    assert torch.equal((nf4_levels(CPU)[codes] * scales).to(dtype).view(3, 100), dequantize_nf4(stored, dtype))


@pytest.mark.tier2
def test_double_quantization_costs_little() -> None:
    """Reference: relative errors of normal weights: 0.0959 with exact absmaxes, 0.3% of that more with 8-bit ones."""
    weight = normal(256, 1024)
    errors = [
        float((dequantize_nf4(quantize_nf4(weight, double=double)) - weight).norm() / weight.norm())
        for double in (False, True)
    ]
    assert 0.09 < errors[0] < errors[1] < errors[0] * 1.005


@pytest.mark.tier2
@pytest.mark.parametrize("autocast", [True, False])
def test_a_linear_map_is_that_of_the_dequantized_weight(autocast: bool) -> None:
    """Reference: torch's own product with the dequantized weight; under autocast in half precision, out and back."""
    layer = NF4Linear(quantize_nf4(normal(24, 40)))
    x, expected_x = (normal(2, 3, 40).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
        expected = torch.nn.functional.linear(expected_x, layer.dequantize())
    y.sum().backward()
    expected.sum().backward()
    assert torch.equal(expected, y)
    assert (torch.bfloat16 if autocast else torch.float32) == y.dtype
    assert x.grad is not None
    assert expected_x.grad is not None
    assert x.grad.dtype == torch.float32
    assert distance(x.grad, expected_x.grad) < TOLERANCE[y.dtype]


@pytest.mark.tier2
def test_the_backward_pass_keeps_codes_only() -> None:
    """Behavior: no tensor is saved, and no floating-point matrix outlives the forward pass."""
    layer = NF4Linear(quantize_nf4(normal(64, 64)))
    x, saved = normal(2, 64).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda kept: kept), TensorMemory([x]) as live:
        y = layer(x)
    assert [] == saved
    assert live.live - x.nbytes - y.nbytes < 2 * 64 * 64  # codes and tables; half precision would take more
    assert [] == list(layer.parameters())


@pytest.mark.tier2
def test_casting_a_model_leaves_its_4_bits_alone() -> None:
    """Behavior: `model.to(dtype)` would round the absmaxes; they stay float32, to the bit."""
    layer = NF4Linear(quantize_nf4(normal(8, 64)))
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    weight = layer.dequantize()
    nn.Sequential(layer).to(torch.bfloat16).double().half()
    after = dict(layer.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert torch.equal(weight, layer.dequantize())


@pytest.mark.tier2
def test_a_model_is_quantized_in_its_blocks_only() -> None:
    """Behavior: the seven projections of each block; embeddings, norms and the head stay parameters."""
    model = new_model()
    expected = dequantize_nf4(quantize_nf4(model.get_parameter("model.layers.1.mlp.up_proj.weight")))
    quantize_model(model)
    quantized = {name: module for name, module in model.named_modules() if isinstance(module, NF4Linear)}
    assert {"weight"} == {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    assert 7 * 2 == len(quantized)
    assert not any("proj" in name for name, _ in model.named_parameters())
    assert torch.equal(expected, quantized["model.layers.1.mlp.up_proj"].dequantize())
    assert model(torch.tensor([[3, 1, 4]])).isfinite().all()


@pytest.mark.tier3
def test_a_dequantized_model_is_plain_and_means_the_same() -> None:
    """Behavior: plain frozen matrices without bias, of what the codes stood for, in the dtype from before."""
    model = new_model().to(torch.bfloat16)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "proj" in name]
    stood_for = {name: dequantize_nf4(quantize_nf4(model.get_parameter(f"{name}.weight"))) for name in names}
    quantize_model(model)
    dequantize_model(model)
    for name in names:
        plain = model.get_submodule(name)
        assert isinstance(plain, nn.Linear)
        assert torch.bfloat16 == plain.weight.dtype
        assert torch.equal(stood_for[name], plain.weight)
        assert (plain.bias, plain.weight.requires_grad) == (None, False)
        assert (plain.out_features, plain.in_features) == tuple(plain.weight.shape)


@pytest.mark.tier3
@pytest.mark.parametrize("double", [True, False])
def test_a_printed_model_shows_how_it_is_stored(double: bool) -> None:
    """Behavior: the map's sides, and whether its absmaxes are quantized."""
    shown = repr(NF4Linear(quantize_nf4(normal(6, 10), double=double)))
    assert f"NF4Linear(in_features=10, out_features=6, double={double})" == shown


@pytest.mark.tier2
def test_a_model_with_nan_is_refused_by_the_matrix_that_holds_it() -> None:
    """Behavior: the name is the one in the weight's file."""
    model = new_model()
    with torch.no_grad():
        model.get_parameter("model.layers.1.self_attn.o_proj.weight")[2, 3] = math.nan
    with pytest.raises(QuantError, match=r"model\.layers\.1\.self_attn\.o_proj\.weight holds infinity or NaN"):
        quantize_model(model)


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
def test_gradients_through_a_quantized_base_are_exact(double: bool) -> None:
    """Reference: central differences of A, B and the inputs, in float64."""
    model = nn.ModuleDict({"q_proj": NF4Linear(quantize_nf4(normal(6, 10), double=double))})
    table = LoraConfig(rank=3, target_modules=["q_proj"])
    add_lora(model, table, torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [torch.float64] * 2 == [factor.dtype for factor in factors]
    with torch.no_grad():
        factors[1].copy_(normal(6, 3))
    x = normal(2, 4, 10).double().requires_grad_()

    def output(*_: Tensor) -> Tensor:
        y = model["q_proj"](x)
        assert y.dtype == torch.float64
        return y

    assert torch.autograd.gradcheck(output, (x, *factors), rtol=1e-6, atol=1e-8)


@pytest.mark.tier2
@pytest.mark.parametrize("double", [True, False])
def test_a_layer_of_any_size_is_moved_whole(double: bool) -> None:
    """Behavior: every buffer goes along, those of one byte and of none too."""
    layer = NF4Linear(quantize_nf4(normal(3, 5), double=double))
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer.to(torch.bfloat16)
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())
    layer.to("meta")
    assert all(buffer.is_meta for buffer in layer.buffers())
    assert before.keys() == dict(layer.named_buffers()).keys()


@pytest.mark.tier2
@pytest.mark.parametrize("table", [nf4_levels, dynamic_levels, quant._level_pairs])
def test_tables_lie_where_they_are_asked_for(table: Callable[[torch.device], Tensor]) -> None:
    """Behavior: whatever torch's default device is."""
    assert "meta" == table(torch.device("meta")).device.type


@pytest.mark.tier2
def test_dequantizing_a_model_draws_nothing() -> None:
    """Behavior: no matrix is initialized that is replaced at once, so random numbers stay where they were."""
    model = new_model()
    quantize_model(model)
    assert any(isinstance(module, NF4Linear) for module in model.modules())
    state = torch.get_rng_state()
    dequantize_model(model)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.tier2
def test_the_gradient_has_the_inputs_dtype_under_autocast() -> None:
    """Behavior: its own backward gives it, before autograd rounds."""
    layer = NF4Linear(quantize_nf4(normal(24, 40)))
    with torch.autocast("cpu", torch.bfloat16):
        node: Any = layer(normal(2, 40).requires_grad_()).grad_fn
    assert torch.float32 == node.apply(normal(2, 24).bfloat16())[0].dtype


@pytest.mark.tier2
def test_quantizing_takes_little_memory_on_the_way() -> None:
    """Behavior: nothing wider than float32 is made, and 14 bytes a weight are the most at once."""
    weight = normal(256, 256)
    with TensorMemory([weight]) as live:
        quantize_nf4(weight)
    assert live.largest <= weight.nbytes
    assert 0 < live.peak - weight.nbytes < 14 * weight.numel()
