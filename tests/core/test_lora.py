"""Adapters on frozen weights: their arithmetic, their gradients, and what they leave alone."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from andon.core.adapters.lora import (
    LoraError,
    LoRALinear,
    active_adapter,
    add_lora,
    base_digest,
    has_adapters,
    lora_parameters,
    merge_lora,
    set_adapter,
    unmerge_lora,
    unwrap_lora,
)
from andon.core.adapters.nf4 import NF4Linear, quantize_model
from andon.core.config import LoraConfig, ModelConfig, load_config
from andon.core.model.llama import Llama, _has_dropout, build_model
from andon.core.model.ops import rms_norm
from andon.core.training.optimizer import build_optimizer
from tests.core.shapes import SHAPE
from tests.tolerances import TOLERANCE, distance

CONFIGS = Path(__file__).parents[2] / "configs"
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def seeded(number: int = 0) -> torch.Generator:
    """Repeats itself."""
    return torch.Generator().manual_seed(number)


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normal numbers."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def wrapped(dtype: torch.dtype = torch.float64, base: nn.Module | None = None, **keys: Any) -> LoRALinear:
    """A layer from 5 to 7 with a trained adapter of rank 3, that is, with B not zero."""
    model = nn.ModuleDict({"layer": base or nn.Linear(5, 7, bias=False, dtype=dtype)})
    config = LoraConfig.model_validate({"rank": 3, "target_modules": ["layer"]} | keys)
    add_lora(model, config, seeded(1), dtype=torch.promote_types(dtype, torch.float32))
    layer = model["layer"]
    assert isinstance(layer, LoRALinear)
    for factor in layer.adapters.parameters():
        factor.data.copy_(random(*factor.shape, seed=2))
    return layer


def factors(layer: LoRALinear) -> tuple[Tensor, Tensor, float]:
    """A, B and the scale."""
    adapter = layer.adapter("default")
    assert adapter is not None
    return adapter.lora_A, adapter.lora_B, adapter.scale


def llama(dtype: torch.dtype = torch.float32, **keys: Any) -> Llama:
    """A small model, not yet adapted."""
    return build_model(ModelConfig.model_validate(SHAPE | keys), 0, dtype=dtype)


def adapted(seed: int = 1, dtype: torch.dtype = torch.float32, **keys: Any) -> Llama:
    """A small model with an adapter whose B is not zero."""
    model = llama(dtype)
    add_lora(model, LoraConfig.model_validate({"rank": 4, "target_modules": "all-linear"} | keys), seeded(seed))
    stir(model, "default", seed)
    return model


def stir(model: nn.Module, name: str, seed: int = 1) -> None:
    """As if trained: B is no longer zero."""
    for factor in lora_parameters(model, name).values():
        factor.data.copy_(random(*factor.shape, seed=seed) * 0.1)


def tokens() -> Tensor:
    """(2, 6) token ids."""
    return torch.randint(0, SHAPE["vocab_size"], (2, 6), generator=seeded(3))


def logits(model: Llama) -> Tensor:
    """Of those tokens."""
    with torch.no_grad():
        return model(tokens())


def bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    """Everything there is to a tensor."""
    return {
        name: f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        + tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, tensor in tensors.items()
    }


def state(model: nn.Module) -> dict[str, bytes]:
    """Names and bits of all tensors, which of them learn, and how modules are nested."""
    learns = {f"{name} learns": str(p.requires_grad).encode() for name, p in model.named_parameters()}
    nested = {name: type(module).__name__.encode() for name, module in model.named_modules()}
    return bits(dict(model.state_dict())) | learns | nested


def by_central_differences(function: Callable[[], Tensor], x: Tensor, step: float = 1e-4) -> Tensor:
    """d function / d x in float64, an element at a time; exact to rounding for what is at most quadratic in x."""
    gradient = torch.empty_like(x)
    with torch.no_grad():
        for index in itertools.product(*map(range, x.shape)):
            kept = float(x[index])
            x[index] = kept + step
            above = function()
            x[index] = kept - step
            gradient[index] = (above - function()) / (2 * step)
            x[index] = kept
    return gradient


@pytest.mark.tier2
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (0, 5)])
def test_adds_the_scaled_product(shape: tuple[int, ...], bias: bool) -> None:
    """Reference: Hu et al. 2022, equation 3, in float64, over the last dimension whatever the others."""
    layer = wrapped(base=nn.Linear(5, 7, bias=bias, dtype=torch.float64), alpha=5)
    (a, b, scale), x = factors(layer), random(*shape)
    expected = layer.base(x) + 5 / 3 * x @ a.t() @ b.t()
    assert 5 / 3 == scale
    assert torch.allclose(expected, layer(x), rtol=0, atol=1e-12)


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_untrained_adapter_changes_no_bit(dtype: torch.dtype) -> None:
    """Behavior: before the first step the adapted model's logits are the base's, to the bit."""
    model = llama(dtype)
    before = logits(model)
    add_lora(model, LoraConfig(rank=4, target_modules="all-linear"), seeded())
    assert any(isinstance(module, LoRALinear) for module in model.modules())
    assert bits({"logits": before}) == bits({"logits": logits(model)})


class Signed(nn.Module):
    """A linear module whose outputs are zeros of both signs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = 48, 64
        self.weight = nn.Parameter(torch.zeros(64, 48, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """+0 and -0 in turn."""
        signs = torch.tensor([0.0, -0.0], dtype=self.weight.dtype).repeat(32)
        return signs.expand(*x.shape[:-1], 64).clone()


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 16])
@pytest.mark.parametrize("rows", [1, 64])
def test_adding_nothing_keeps_the_sign_of_a_zero(rows: int, rank: int, dtype: torch.dtype) -> None:
    """Behavior: with B zero not even -0 becomes +0, whatever kernel the sizes choose."""
    model = nn.ModuleDict({"layer": Signed(dtype)})
    add_lora(model, LoraConfig(rank=rank, target_modules=["layer"]), seeded())
    for x in (random(rows, 48, dtype=dtype), -random(rows, 48, dtype=dtype).abs()):
        assert bits({"y": model.get_submodule("layer.base")(x)}) == bits({"y": model["layer"](x)})


@pytest.mark.tier2
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5)])
def test_gradients_are_those_of_central_differences(shape: tuple[int, ...]) -> None:
    """Reference: central differences in float64 for A, B and the input, rtol 1e-6."""
    layer = wrapped(alpha=5)
    (a, b, _), x, weights = factors(layer), random(*shape).requires_grad_(), random(*shape[:-1], 7, seed=5)

    def total() -> Tensor:
        return (layer(x) * weights).sum()

    for actual, leaf in zip(torch.autograd.grad(total(), (a, b, x)), (a, b, x), strict=True):
        expected = by_central_differences(total, leaf.detach())
        assert torch.allclose(expected, actual, rtol=1e-6, atol=1e-9)


@pytest.mark.tier2
def test_gradients_do_not_depend_on_how_memory_is_laid_out() -> None:
    """Behavior: inputs and gradients that are transposed views give what their copies give."""
    layer = wrapped()
    x, weights = random(3, 5, 2).transpose(1, 2), random(7, 2, 3, seed=5).permute(2, 1, 0)
    leaves = [*factors(layer)[:2], x.requires_grad_()]
    expected = torch.autograd.grad((layer(x.contiguous()) * weights.contiguous()).sum(), leaves)
    actual = torch.autograd.grad((layer(x) * weights).sum(), leaves)
    assert all(distance(one, other) < TOLERANCE[torch.float64] for one, other in zip(actual, expected, strict=True))


@pytest.mark.tier2
def test_only_the_active_adapter_learns() -> None:
    """Behavior: after a backward pass the base has no gradient, the active adapter has, and the other has none."""
    model = adapted()
    add_lora(model, LoraConfig(rank=2), seeded(), "second")
    stir(model, "second")
    model(tokens()).square().mean().backward()
    second = {id(factor) for factor in lora_parameters(model, "second").values()}
    for parameter in model.parameters():
        assert (id(parameter) in second) == parameter.requires_grad == (parameter.grad is not None)
        assert parameter.grad is None or parameter.grad.abs().max() > 0


@pytest.mark.tier2
def test_keeps_its_input_and_little_else_for_the_backward_pass() -> None:
    """Behavior: beside what a frozen layer keeps, that is the input, R numbers a token, and the factors themselves."""
    layer = wrapped(torch.float32)
    kept: dict[int, int] = {}
    x = random(40, 5, dtype=torch.float32).requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(x)
    numbers = {"x": 40 * 5, "low": 40 * 3, "A": 3 * 5, "B": 7 * 3, "frozen": 7 * 5}
    assert 4 * sum(numbers.values()) == sum(kept.values())
    assert y.shape == (40, 7)


@pytest.mark.tier2
def test_half_precision_follows_the_base() -> None:
    """Behavior: under autocast the output is bfloat16; adapters and their gradients stay fp32."""
    layer = wrapped(torch.float32)
    x = random(4, 5, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert torch.bfloat16 == y.dtype
    assert distance(y.detach(), layer(x).detach()) < TOLERANCE[torch.bfloat16]
    for leaf in (x, *factors(layer)[:2]):
        (grad,) = torch.autograd.grad(y.sum(), leaf, retain_graph=True)
        (exact,) = torch.autograd.grad(layer(x).sum(), leaf)
        assert torch.float32 == grad.dtype
        assert distance(grad, exact) < TOLERANCE[torch.bfloat16]


@pytest.mark.tier2
def test_adapters_are_fp32_whatever_the_base_is_stored_in() -> None:
    """Behavior: a half-precision base has adapters of full precision, and another dtype is had for the asking."""
    model = llama(torch.bfloat16)
    add_lora(model, LoraConfig(rank=2), seeded())
    assert {torch.float32} == {factor.dtype for factor in lora_parameters(model, "default").values()}
    add_lora(model, LoraConfig(rank=2), seeded(), "exact", torch.float64)
    assert {torch.float64} == {factor.dtype for factor in lora_parameters(model, "exact").values()}


@pytest.mark.tier2
def test_initial_values_are_pefts() -> None:
    """Reference: PEFT: A uniform within 1 / sqrt(inputs), B zero; a seed decides, module by module."""
    model, again, other = llama(), llama(), llama()
    config = LoraConfig(rank=4, target_modules=["q_proj", "down_proj"])
    for adapting, seed in (model, 7), (again, 7), (other, 8):
        add_lora(adapting, config, seeded(seed))
    drawn = {name: factor for name, factor in lora_parameters(model, "default").items() if "lora_A" in name}
    for name, a in drawn.items():
        bound = 1 / math.sqrt(a.shape[1])
        assert 0.9 * bound < a.abs().max() < bound
        assert 0.8 < a.std() / (bound / math.sqrt(3)) < 1.2, name
    assert 4 == len({factor.sum().item() for factor in drawn.values()})
    assert {0.0} == {b.abs().max().item() for name, b in lora_parameters(model, "default").items() if "lora_B" in name}
    assert state(model) == state(again)
    assert state(model) != state(other)


@pytest.mark.tier2
@pytest.mark.parametrize("dropout", [0.5, 0.25])
def test_dropout_is_on_the_adapters_input_and_only_in_training(dropout: float) -> None:
    """Reference: the definition, with torch's dropout of the same seed; the base sees its input whole."""
    layer = wrapped(dropout=dropout).requires_grad_(requires_grad=False)
    (a, b, scale), x = factors(layer), random(6, 5)
    torch.manual_seed(4)
    actual = layer(x)
    torch.manual_seed(4)
    dropped = torch.nn.functional.dropout(x, dropout)
    assert distance(actual, layer.base(x) + scale * dropped @ a.t() @ b.t()) < TOLERANCE[torch.float64]
    layer.eval()
    assert distance(layer(x), layer.base(x) + scale * x @ a.t() @ b.t()) < TOLERANCE[torch.float64]


@pytest.mark.tier2
def test_knows_whether_it_draws() -> None:
    """Behavior: only an active adapter with dropout makes a model's forward pass random."""
    model = llama()
    assert not _has_dropout(model)
    add_lora(model, LoraConfig(rank=2, dropout=0.1), seeded(), "wet")
    assert _has_dropout(model)
    assert _has_dropout(model.model.layers[0])
    add_lora(model, LoraConfig(rank=2), seeded(), "dry")
    assert not _has_dropout(model)
    set_adapter(model, "wet")
    assert _has_dropout(model)


@pytest.mark.tier2
def test_without_an_active_adapter_nothing_is_drawn() -> None:
    """Behavior: an adapter that is there and not active makes no forward pass random."""
    model = llama()
    add_lora(model, LoraConfig(rank=2, dropout=0.1), seeded(), "wet")
    set_adapter(model, None)
    assert {0.0} == {module.dropout for module in model.modules() if isinstance(module, LoRALinear)}
    assert not _has_dropout(model)


@pytest.mark.tier2  # torch.utils.checkpoint imports torch._dynamo
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_activation_checkpointing_changes_no_gradient(share: float) -> None:
    """Behavior: the second forward pass drops what the first one dropped, so that gradients are equal to the bit."""
    model = adapted(dropout=share)
    gradients = []
    for checkpointing in (False, True, True):
        model.activation_checkpointing = checkpointing
        torch.manual_seed(6)
        model(tokens()).square().mean().backward()
        gradients.append(bits({name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        model.zero_grad()
    assert gradients[0] == gradients[1] == gradients[2]
    assert gradients[0].keys() == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.tier2
def test_adapters_are_switched() -> None:
    """Behavior: several sit on one base; the active one alone decides the logits, and with none it is the base."""
    model = llama()
    plain, seen = logits(model), {}
    chosen = {"one": ["q_proj"], "two": ["q_proj", "up_proj"], "three": ["v_proj"]}
    for number, (name, targets) in enumerate(chosen.items()):
        config = LoraConfig(rank=2, target_modules=targets)
        assert len(targets) * 2 == len(add_lora(model, config, seeded(number), name))
        stir(model, name, number)
        seen[name] = logits(model)
    for name, expected in reversed(seen.items()):
        set_adapter(model, name)
        assert name == active_adapter(model)
        assert torch.equal(expected, logits(model))
    set_adapter(model, None)
    assert torch.equal(plain, logits(model))
    assert active_adapter(model) is None
    assert not any(p.requires_grad for p in model.parameters())
    assert 4 == len({logits.sum().item() for logits in (plain, *seen.values())})


@pytest.mark.tier2
@pytest.mark.parametrize("name", ["", "a.b", "a b", "keys", "default", "items", "../x", "é"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    """Behavior: taken, or no module's; the model stays as it was."""
    model = adapted()
    before = state(model)
    with pytest.raises(LoraError, match="adapter") as caught:
        add_lora(model, LoraConfig(rank=2), seeded(), name)
    assert repr(name) in str(caught.value)
    assert before == state(model)


@pytest.mark.tier2
@pytest.mark.parametrize("use", [set_adapter, merge_lora, unmerge_lora, lora_parameters])
def test_an_adapter_that_is_not_there_is_refused(use: Callable[[nn.Module, str], object]) -> None:
    """Behavior: the name is given, and the model stays as it was."""
    model = adapted()
    before = state(model)
    with pytest.raises(LoraError, match="'other'"):
        use(model, "other")
    assert before == state(model)


@pytest.mark.tier2
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_base_that_is_not_finite_is_refused(value: float) -> None:
    """Behavior: the tensor is named, whether it would be adapted or not, and the model stays as it was."""
    model = llama()
    model.get_parameter("model.layers.1.mlp.up_proj.weight").data[3, 2] = value
    before = state(model)
    with pytest.raises(LoraError, match=r"model\.layers\.1\.mlp\.up_proj\.weight of the base holds NaN or inf"):
        add_lora(model, LoraConfig(rank=2), seeded())
    assert before == state(model)


@pytest.mark.tier2
def test_the_digest_is_of_the_base_alone() -> None:
    """Behavior: it does not see adapters, their values or their activity, and sees every bit, name and dtype below."""
    model = llama()
    digest = base_digest(model)
    add_lora(model, LoraConfig(rank=2), seeded())
    stir(model, "default")
    add_lora(model, LoraConfig(rank=2), seeded(), "second")
    assert digest == base_digest(model)
    weight = model.get_parameter("model.layers.0.self_attn.q_proj.base.weight")
    weight.data[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1.0))
    assert digest != base_digest(model)
    assert base_digest(llama()) != base_digest(llama(torch.float64))
    one, other = (nn.ModuleDict({name: Signed(torch.float32)}) for name in "ab")
    assert base_digest(one) != base_digest(other)
    with torch.device("meta"):
        assert "" == base_digest(Llama(ModelConfig.model_validate(SHAPE)))


@pytest.mark.tier2
def test_training_leaves_the_base_alone() -> None:
    """Behavior: after steps with decay every base weight has its bits, and the loss has fallen."""
    model = llama()
    digest = base_digest(model)
    add_lora(model, LoraConfig(rank=4, target_modules="all-linear"), seeded())
    training = load_config(CONFIGS / "tiny.toml", ["training.learning_rate=0.05"]).training
    optimizer, losses = build_optimizer(model, training), []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(model(tokens())[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.02
    assert (64, digest) == (len(digest), base_digest(model))


@pytest.mark.tier2
@pytest.mark.parametrize("bias", [False, True])
def test_merged_equals_adapted(bias: bool) -> None:
    """Behavior: in fp32 outputs differ by less than 1e-5 rms, and no bit of the adapter or of the base moves."""
    model = nn.Sequential(nn.Linear(24, 32, bias=bias), nn.Tanh(), nn.Linear(32, 24, bias=bias))
    add_lora(model, LoraConfig(rank=4, target_modules=["0", "2"]), seeded())
    stir(model, "default")
    x, before = random(9, 24, dtype=torch.float32), state(model)
    expected = model(x).detach()
    layers = [layer for layer in model if isinstance(layer, LoRALinear)]
    bases = [layer.base for layer in layers]
    assert [] == merge_lora(model, "default")
    assert active_adapter(model) is None
    assert distance(model(x), expected) < 1e-5
    assert distance(bases[1](bases[0](x).tanh()), expected) > 0.1
    assert not set(bases) & {layer.base for layer in layers}
    assert {(nn.Linear, bias)} == {(type(layer.base), layer.base.bias is not None) for layer in layers}
    unmerge_lora(model, "default")
    assert before == state(model)
    assert bits({"": expected}) == bits({"": model(x)})
    assert bases == [layer.base for layer in layers]


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", DTYPES)
def test_unmerging_restores_every_dtype_exactly(dtype: torch.dtype) -> None:
    """Behavior: also where the sum was rounded to half precision."""
    model = adapted(dtype=dtype)
    before, expected = state(model), logits(model)
    merge_lora(model, "default")
    assert before != state(model)
    assert distance(logits(model), expected) < max(1e-5, 2 * TOLERANCE[dtype])
    unmerge_lora(model, "default")
    assert before == state(model)
    assert "default" == active_adapter(model)


@pytest.mark.tier2
def test_what_is_merged_is_not_merged_or_mixed_again() -> None:
    """Behavior: a second merge, another adapter and a switch are refused until the first is unmerged."""
    model = adapted()
    add_lora(model, LoraConfig(rank=2), seeded(), "second")
    merge_lora(model, "default")
    before = state(model)
    attempts: list[Callable[[], object]] = [
        lambda: merge_lora(model, "default"),
        lambda: merge_lora(model, "second"),
        lambda: set_adapter(model, "second"),
        lambda: add_lora(model, LoraConfig(rank=2), seeded(), "third"),
    ]
    for attempt in attempts:
        with pytest.raises(LoraError, match="adapter 'default' is merged into the base; unmerge it first"):
            attempt()
    with pytest.raises(LoraError, match="adapter 'second' is not merged"):
        unmerge_lora(model, "second")
    assert before == state(model)
    unmerge_lora(model, "default")
    with pytest.raises(LoraError, match="adapter 'default' is not merged"):
        unmerge_lora(model, "default")


@pytest.mark.tier2
def test_a_merged_model_that_was_converted_is_not_unmerged() -> None:
    """Behavior: the base under it has the old dtype and would not fit; the message says so and nothing changes."""
    model = adapted()
    merge_lora(model, "default")
    before = state(model.half())
    with pytest.raises(LoraError, match=r"was merged in torch\.float32 on cpu and the model is torch\.float16 on cpu"):
        unmerge_lora(model, "default")
    assert before == state(model)


@pytest.mark.tier2
def test_unwrapping_leaves_a_plain_model() -> None:
    """Behavior: names and modules are those of a model never adapted, and the logits those of the merged one."""
    model = adapted()
    merge_lora(model, "default")
    expected = logits(model)
    unwrap_lora(model)
    assert llama().state_dict().keys() == model.state_dict().keys()
    assert torch.equal(expected, logits(model))
    assert not any(isinstance(module, LoRALinear) for module in model.modules())


class Packed(nn.Module):
    """A linear module that stores something else than its weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("codes", (weight * 64).round().to(torch.int8))

    def dequantize(self) -> Tensor:
        """(O, I) in fp32."""
        return self.get_buffer("codes").float() / 64

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        return x @ self.dequantize().to(x.dtype).t()


@pytest.mark.tier2
def test_a_quantized_base_is_adapted_and_merged_into_its_dequantized_weight() -> None:
    """Behavior: the names of what is quantized no more come back, and unmerging brings back the very codes."""
    model = nn.Sequential(Packed(random(7, 5)), nn.Linear(7, 6))
    digest = base_digest(model)
    add_lora(model, LoraConfig(rank=3, target_modules="all-linear"), seeded())
    stir(model, "default")
    assert {torch.float32} == {factor.dtype for factor in lora_parameters(model, "default").values()}
    x, before = random(4, 5, dtype=torch.float32), state(model)
    expected = model(x).detach()
    assert ["0"] == merge_lora(model, "default")
    assert distance(model(x), expected) < 1e-5
    assert torch.float32 == model.get_parameter("0.base.weight").dtype
    unmerge_lora(model, "default")
    assert before == state(model)
    assert digest == base_digest(model)


@pytest.mark.tier2
def test_gradients_through_a_quantized_base_are_those_of_central_differences() -> None:
    """Reference: central differences in float64 for A, B and the input, rtol 1e-6."""
    layer = wrapped(base=Packed(random(7, 5)))
    (a, b, _), x, weights = factors(layer), random(4, 5).requires_grad_(), random(4, 7, seed=5)

    def total() -> Tensor:
        return (layer(x) * weights).sum()

    a, b = (factor.data.double().requires_grad_() for factor in (a, b))
    adapter = layer.adapter("default")
    assert adapter is not None
    adapter.lora_A, adapter.lora_B = nn.Parameter(a), nn.Parameter(b)
    leaves = (adapter.lora_A, adapter.lora_B, x)
    for actual, leaf in zip(torch.autograd.grad(total(), leaves), leaves, strict=True):
        assert torch.allclose(by_central_differences(total, leaf.detach()), actual, rtol=1e-6, atol=1e-9)


@pytest.mark.tier2
def test_a_weight_that_is_shared_is_not_merged_into() -> None:
    """Behavior: both names are given, and nothing is merged."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    add_lora(model, LoraConfig(rank=2, target_modules=["1"]), seeded())
    before = state(model)
    with pytest.raises(LoraError, match=r"1\.base\.weight is also 0\.weight, which merging would change too"):
        merge_lora(model, "default")
    assert before == state(model)


@pytest.mark.tier2
def test_adding_keeps_a_models_mode() -> None:
    """Behavior: a model in evaluation stays there, adapters included."""
    model = llama().eval()
    add_lora(model, LoraConfig(rank=2, dropout=0.5), seeded())
    assert has_adapters(model)
    assert not any(module.training for module in model.modules())
    assert torch.equal(logits(model), logits(copy.deepcopy(model)))


@pytest.mark.tier3
@pytest.mark.parametrize(("name", "rank", "count"), [("124m", 16, 1_179_648), ("7b", 64, 67_108_864)])
def test_trainable_parameters_of_published_shapes(name: str, rank: int, count: int) -> None:
    """Reference: rank x (inputs + outputs) over q, k, v and o of every layer, counted on the meta device."""
    config = load_config(CONFIGS / f"{name}.toml")
    with torch.device("meta"):
        model = Llama(config.model)
    add_lora(model, LoraConfig(rank=rank), seeded())
    assert count == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.tier2
def test_a_frozen_norm_gives_its_input_the_same_gradient() -> None:
    """Behavior: the gain's gradient is left out, and the input's keeps its bits."""
    x, weight, grad = random(4, 6).requires_grad_(), random(6, seed=1), random(4, 6, seed=2)
    frozen = torch.autograd.grad(rms_norm(x, weight, 1e-5), x, grad)
    free = torch.autograd.grad(rms_norm(x, weight.clone().requires_grad_(), 1e-5), x, grad)
    assert bits({"x": free[0]}) == bits({"x": frozen[0]})


@pytest.mark.tier3
def test_the_digest_of_a_base_does_not_ask_what_shares_memory() -> None:
    """Behavior: levels that all matrices share, and the same levels each of its own, are one base."""
    model = llama()
    quantize_model(model)
    shared = base_digest(model)
    for module in model.modules():
        if isinstance(module, NF4Linear):
            module.nested_levels = module.nested_levels.clone()
    assert (64, shared) == (len(shared), base_digest(model))


@pytest.mark.tier2
def test_a_fresh_wrapper_has_nothing_active_and_nothing_merged() -> None:
    """Behavior: None, not a name that no adapter has; and a model says whether it has wrappers at all."""
    model = llama()
    assert not has_adapters(model)
    assert active_adapter(model) is None
    layer = LoRALinear(nn.Linear(2, 2))
    assert (None, None) == (layer.active, layer.unmerged)
    assert has_adapters(nn.ModuleDict({"layer": layer}))


@pytest.mark.tier2
def test_a_second_adapter_goes_to_the_same_modules() -> None:
    """Behavior: with every linear module wanted, what lies inside a wrapper is none of them."""
    model, config = llama(), LoraConfig(rank=2, target_modules="all-linear")
    first = add_lora(model, config, seeded(), "one")
    assert 14 == len(first)
    assert first == add_lora(model, config, seeded(), "two")


@pytest.mark.tier2
def test_half_a_linear_module_is_refused() -> None:
    """Behavior: a module that names its inputs and not its outputs is not linear."""
    half = nn.Module()
    setattr(half, "in_features", 4)  # noqa: B010 - torch types a module's attributes as tensors
    model = nn.ModuleDict({"inputs": half, "layer": nn.Linear(4, 4)})
    with pytest.raises(LoraError, match="inputs is not a linear module"):
        add_lora(model, LoraConfig(rank=2, target_modules=["inputs"]), seeded())


@pytest.mark.tier2
def test_factors_are_uniform_draws_in_the_order_of_modules() -> None:
    """Reference: torch's uniform draws between -1 / sqrt(inputs) and 1 / sqrt(inputs), from the same seed."""
    model, generator = llama(), seeded(7)
    add_lora(model, LoraConfig(rank=4, target_modules=["q_proj", "down_proj"]), seeded(7))
    drawn = [factor for name, factor in lora_parameters(model, "default").items() if "lora_A" in name]
    assert 4 == len(drawn)
    for a in drawn:
        bound = 1 / math.sqrt(a.shape[1])
        assert distance(a.detach(), torch.empty(a.shape).uniform_(-bound, bound, generator=generator)) < 1e-6


@pytest.mark.tier2
def test_the_digest_knows_modules_called_base() -> None:
    """Behavior: what a wrapper inserts into a name is taken out again at its last place only."""
    model = nn.ModuleDict({"tower": nn.ModuleDict({"base": nn.ModuleDict({"q_proj": nn.Linear(4, 4)})})})
    before = base_digest(model)
    add_lora(model, LoraConfig(rank=2, target_modules=["q_proj"]), seeded())
    assert (64, before) == (len(before), base_digest(model))


class Widening(nn.Linear):
    """Takes half precision and gives float32, as some quantized layers do."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name for it
        """(..., I) to (..., O)."""
        return super().forward(input).float()


@pytest.mark.tier2
@pytest.mark.parametrize(("kind", "dtype"), [(nn.Linear, torch.bfloat16), (Widening, torch.float32)])
def test_an_adapter_works_in_the_dtype_that_its_base_gives(kind: type[nn.Linear], dtype: torch.dtype) -> None:
    """Behavior: and its own backward gives each input's dtype, before autograd rounds."""
    layer = wrapped(torch.bfloat16, kind(5, 7, bias=False, dtype=torch.bfloat16))
    (a, b, scale), x = factors(layer), random(6, 5, dtype=torch.bfloat16).requires_grad_()
    y = layer(x)
    assert dtype == y.dtype
    assert distance(y.detach(), (layer.base(x) + scale * x.float() @ a.t() @ b.t()).detach()) < TOLERANCE[dtype]
    node: Any = y.grad_fn
    _, grad_x, grad_a, grad_b, _ = node.apply(random(6, 7, dtype=dtype))
    assert (torch.bfloat16, torch.float32, torch.float32) == (grad_x.dtype, grad_a.dtype, grad_b.dtype)


@pytest.mark.tier2
@pytest.mark.parametrize("frozen", ["x", "lora_A"])
def test_what_is_frozen_costs_no_product(frozen: str) -> None:
    """Behavior: the adapter's own backward makes no gradient that is not needed."""
    layer, x = wrapped(), random(6, 5).requires_grad_()
    leaf = x if frozen == "x" else factors(layer)[0]
    leaf.requires_grad_(False)
    node: Any = layer(x).grad_fn
    _, grad_x, grad_a, grad_b, _ = node.apply(random(6, 7))
    assert [frozen == "x", frozen == "lora_A", False] == [grad is None for grad in (grad_x, grad_a, grad_b)]


@pytest.mark.tier2
def test_a_large_base_is_finite() -> None:
    """Behavior: numbers whose squares are beyond float32 are numbers."""
    model = nn.ModuleDict({"layer": nn.Linear(4, 4)})
    model.get_parameter("layer.weight").data.fill_(-1e30)
    assert ["layer"] == add_lora(model, LoraConfig(rank=2, target_modules=["layer"]), seeded())


@pytest.mark.tier2
@pytest.mark.parametrize("wanted", ["x", "a", "b"])
def test_one_gradient_alone_is_the_same_as_among_all(wanted: str) -> None:
    """Behavior: what else is frozen changes no bit of the input's, of A's or of B's gradient."""
    layer, x = wrapped(), random(6, 5).requires_grad_()
    a, b, _ = factors(layer)
    leaves: dict[str, Tensor] = {"x": x, "a": a, "b": b}
    due = dict(zip(leaves, torch.autograd.grad(layer(x).square().sum(), [*leaves.values()]), strict=True))
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == wanted)
    layer.base.requires_grad_(requires_grad=False)
    (alone,) = torch.autograd.grad(layer(x).square().sum(), [leaves[wanted]])
    assert torch.equal(due[wanted], alone)
