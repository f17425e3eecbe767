"""The model against its equations, in float64 where an equation is checked."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from andon.core.config import ModelConfig, load_config
from andon.core.data.batch import Batch
from andon.core.model import llama
from andon.core.model.llama import KVCache, Llama, build_model, rotary_angles, rotary_frequencies
from andon.core.model.ops import at_least_fp32, compute_dtype, rms_norm, rotate, swiglu
from andon.core.training.loss import loss
from tests.core.shapes import LLAMA3, SHAPE
from tests.tolerances import TOLERANCE, distance

CONFIGS = Path(__file__).parents[2] / "configs"
EXACT = TOLERANCE[torch.float64]
SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-head": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "wide heads": {"head_dim": 6},
    "tied": {"tie_word_embeddings": True},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
}


def shape(**changes: Any) -> ModelConfig:
    """A small model's table."""
    return ModelConfig.model_validate(SHAPE | changes)


def double(**changes: Any) -> Llama:
    """A small float64 model whose norms are not all one."""
    model = build_model(shape(**changes), 0, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1, 0.2, generator=torch.Generator().manual_seed(1))
        else:
            parameter.data *= 10  # far from linear, so that no error hides
    return model


def tokens(rows: int, length: int) -> Tensor:
    """Random token ids."""
    return torch.randint(0, SHAPE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(2))


def by_the_book(model: Llama, tokens_T: Tensor) -> Tensor:
    """Logits (T, V) of one document: the paper's equations, one position and one head at a time."""
    config, weights, count = model.config, dict(model.named_parameters()), len(tokens_T)
    size, groups = config.head_size, config.num_attention_heads // config.num_key_value_heads
    turns = [[complex(math.cos(t * f), math.sin(t * f)) for f in rotary_frequencies(config)] for t in range(count)]
    turns_TH = torch.tensor(turns, dtype=torch.complex128)

    def norm(x: Tensor, name: str) -> Tensor:
        return weights[name] * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    def rotated(x_TH: Tensor) -> Tensor:
        z = torch.complex(x_TH[:, : size // 2], x_TH[:, size // 2 :]) * turns_TH
        return torch.cat([z.real, z.imag], -1)

    x_TD = weights["model.embed_tokens.weight"][tokens_T]
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}."
        n_TD = norm(x_TD, layer + "input_layernorm.weight")
        q, k, v = (n_TD @ weights[f"{layer}self_attn.{name}_proj.weight"].T for name in "qkv")
        heads = []
        for head in range(config.num_attention_heads):
            own, shared = slice(head * size, (head + 1) * size), head // groups
            key = slice(shared * size, (shared + 1) * size)
            scores_TT = rotated(q[:, own]) @ rotated(k[:, key]).T / math.sqrt(size)
            scores_TT = scores_TT.masked_fill(torch.ones(count, count).triu(1).bool(), -math.inf)
            heads.append(scores_TT.softmax(-1) @ v[:, key])
        x_TD = x_TD + torch.cat(heads, -1) @ weights[layer + "self_attn.o_proj.weight"].T
        n_TD = norm(x_TD, layer + "post_attention_layernorm.weight")
        gate, up = (n_TD @ weights[f"{layer}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x_TD = x_TD + (gate * gate.sigmoid() * up) @ weights[layer + "mlp.down_proj.weight"].T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x_TD, "model.norm.weight") @ head.T


@pytest.mark.tier1
@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_gradients_follow_the_papers_equations(name: str) -> None:
    """Reference: the equations written out in float64; every weight's gradient by plain autograd."""
    model, tokens_BT = double(**SHAPES[name]), tokens(2, 7)
    logits_BTV = model(tokens_BT)
    expected = torch.stack([by_the_book(model, row) for row in tokens_BT])
    assert distance(logits_BTV.detach(), expected.detach()) < EXACT
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    parameters = list(model.parameters())
    ours = torch.autograd.grad((logits_BTV * weight).sum(), parameters)
    for actual, reference in zip(ours, torch.autograd.grad((expected * weight).sum(), parameters), strict=True):
        assert distance(actual, reference) < EXACT


@pytest.mark.tier1
def test_packed_documents_see_only_themselves() -> None:
    """Reference: each document alone. Positions restart, and ids that return are the same document only by place."""
    model, tokens_BT = double(), tokens(2, 9)
    documents_BT = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [4, 5, 5, 5, 5, 5, 5, 5, 5]])
    with torch.no_grad():
        logits_BTV = model(tokens_BT, documents_BT)
    for row, cuts in enumerate([[0, 3, 7, 9], [0, 1, 9]]):
        for begin, end in itertools.pairwise(cuts):
            alone = by_the_book(model, tokens_BT[row, begin:end])
            assert distance(logits_BTV[row, begin:end], alone.detach()) < EXACT
    positions_BT, _ = llama._positions_and_mask(tokens_BT, documents_BT, 0, torch.float64)
    assert [[0, 1, 2, 0, 1, 2, 3, 0, 1], [0, 0, 1, 2, 3, 4, 5, 6, 7]] == positions_BT.tolist()


@pytest.mark.tier1
@pytest.mark.parametrize("packed", [False, True])
def test_no_token_sees_a_later_one(packed: bool) -> None:
    """Behavior: bitwise, changing a token leaves everything before it alone, and changes what comes after."""
    model, tokens_BT = double(), tokens(1, 8)
    documents_BT = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]) if packed else None
    before = model(tokens_BT, documents_BT)
    tokens_BT[0, 5] = (tokens_BT[0, 5] + 1) % SHAPE["vocab_size"]
    after = model(tokens_BT, documents_BT)
    assert torch.equal(before[:, :5], after[:, :5])
    assert all((before[:, position] != after[:, position]).any() for position in range(5, 8))


@pytest.mark.tier1
@pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 1, 3, 1], [1, 8], [3, 3, 3]])
def test_a_cache_changes_no_logit(pieces: list[int]) -> None:
    """Reference: the forward pass over everything at once, at every position, however the tokens are cut."""
    model, tokens_BT = double(), tokens(2, 9)
    cache = KVCache(model.config, 2, 9, model.lm_head.weight)
    with torch.no_grad():
        parts = [model(piece, cache=cache) for piece in tokens_BT.split(pieces, 1)]
        assert distance(torch.cat(parts, 1), model(tokens_BT)) < EXACT
    assert cache.length == 9


@pytest.mark.tier1
def test_a_cache_refuses_what_it_cannot_hold() -> None:
    """Behavior: one token too many is a ValueError with both numbers."""
    model = double()
    cache = KVCache(model.config, 1, 4, model.lm_head.weight)
    with torch.no_grad():
        model(tokens(1, 3), cache=cache)
        with pytest.raises(ValueError, match="the cache holds 4 tokens and 5 are needed"):
            model(tokens(1, 2), cache=cache)


@pytest.mark.tier1
@pytest.mark.parametrize("past", [0, 3])
def test_a_cache_refuses_documents(past: int) -> None:
    """Behavior: an empty cache too, as what is kept would be seen across documents by the next token."""
    model = double()
    cache = KVCache(model.config, 1, 8, model.lm_head.weight)
    with torch.no_grad():
        if past:
            model(tokens(1, past), cache=cache)
        with pytest.raises(ValueError, match="documents and a cache cannot be combined"):
            model(tokens(1, 4), torch.tensor([[0, 0, 1, 1]]), cache=cache)


@pytest.mark.tier1
def test_grouped_queries_are_multi_head_attention_with_copied_keys() -> None:
    """Reference: the same weights, each key and value head repeated for its group (arXiv:2305.13245, section 2)."""
    grouped, full = double(num_key_value_heads=2), double(num_key_value_heads=4)
    weights = {}
    for name, weight in grouped.state_dict().items():
        copied = name.endswith(("k_proj.weight", "v_proj.weight"))
        weights[name] = weight.unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1) if copied else weight
    full.load_state_dict(weights)
    with torch.no_grad():
        assert distance(grouped(tokens(2, 7)), full(tokens(2, 7))) < EXACT


def op_inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Random float64 leaves."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.tier2  # gradcheck imports torch.testing, half a second
def test_gradients_of_the_three_operations() -> None:
    """Reference: finite differences, of the first derivative, and of the second where there is one."""
    x, weight = op_inputs((2, 3, 4), (4,))
    assert gradcheck(lambda x, weight: rms_norm(x, weight, 1e-5), (x, weight))
    assert gradgradcheck(lambda x, weight: rms_norm(x, weight, 1e-5), (x, weight))
    heads = op_inputs((2, 3, 2, 4))[0]
    angles = rotary_angles(torch.arange(3)[None], shape(head_dim=4), torch.float64)
    assert gradcheck(lambda x: rotate(x, *angles), (heads,))
    assert gradgradcheck(lambda x: rotate(x, *angles), (heads,))
    gate, up = op_inputs((2, 5), (2, 5))
    assert gradcheck(swiglu, (gate, up))
    first = torch.autograd.grad(swiglu(gate, up).square().sum(), gate, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.tier1
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_normed_and_turned_in_float32(dtype: torch.dtype) -> None:
    """Reference: the same numbers in float64, rounded once at the end: at most one unit in the last place apart."""
    x = torch.randn(4, 3, 2, 8, generator=torch.Generator().manual_seed(5)).to(dtype)
    angles = rotary_angles(torch.tensor([[100, 70001, 131071]]), shape(head_dim=8), torch.float64)
    unit = torch.finfo(dtype).eps
    weight = torch.linspace(0.5, 2, 8)
    for actual, exact in [
        (rms_norm(x, weight, 1e-5), rms_norm(x.double(), weight.double(), 1e-5)),
        (rotate(x, *(angle.float() for angle in angles)), rotate(x.double(), *angles)),
    ]:
        assert dtype == actual.dtype
        assert ((actual.double() - exact).abs() <= unit * exact.abs() + 1e-6).all()


@pytest.mark.tier1
def test_rotary_scores_depend_on_distance_alone() -> None:
    """Behavior: q at m and k at n score the same wherever m - n is the same, and no vector changes its length."""
    q, k = op_inputs((1, 1, 1, 8), (1, 1, 1, 8))
    config = shape(head_dim=8)

    def at(x: Tensor, position: int) -> Tensor:
        return rotate(x, *rotary_angles(torch.tensor([[position]]), config, torch.float64))

    near, far = (at(q, start + 5) @ at(k, start).mT for start in (0, 40_000))
    assert torch.allclose(near, far, rtol=0, atol=1e-9)
    assert not torch.allclose(near, at(q, 6) @ at(k, 0).mT, rtol=0, atol=1e-3)
    assert torch.allclose(at(q, 12345).norm(), q.norm(), rtol=1e-14)


@pytest.mark.tier1
def test_frequencies_are_those_of_the_published_formulas() -> None:
    """Reference: by hand. theta^(-2i/H); linear divides by the factor; llama3 goes by the turns in 2048 tokens.

    325.9 and 32.6 turns stay; 0.326 turns is divided by 8; 3.25949 turns lies between 1 and 4 and keeps
    (3.25949 - 1) / 3 = 0.753164 of itself and an eighth of the rest, 0.784019 in all.
    """
    plain = {"head_dim": 8, "rope_theta": 10000.0}
    assert pytest.approx([1, 0.1, 0.01, 0.001], rel=1e-14) == rotary_frequencies(shape(**plain))
    linear = shape(**plain, rope_scaling={"rope_type": "linear", "factor": 4.0})
    assert pytest.approx([0.25, 0.025, 0.0025, 0.00025], rel=1e-14) == rotary_frequencies(linear)
    scaling = LLAMA3 | {"original_max_position_embeddings": 2048}
    llama3 = rotary_frequencies(shape(**plain, rope_scaling=scaling))
    assert pytest.approx([1, 0.1, 0.0078401886, 0.000125], rel=1e-8) == llama3


@pytest.mark.tier1
def test_far_positions_keep_their_angles_in_a_bfloat16_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: float64 angles. At position 70,000 a bfloat16 angle would be off by whole turns."""
    model = build_model(shape(max_position_embeddings=131072), 0, dtype=torch.bfloat16)
    cache = KVCache(model.config, 1, 70_003, model.lm_head.weight)
    cache.keys.zero_(), cache.values.zero_()
    cache.length = 70_000
    seen = []
    monkeypatch.setattr(llama, "rotate", lambda x, cos, sin: seen.append((cos, sin)) or rotate(x, cos, sin))
    with torch.no_grad():
        assert model(tokens(1, 3), cache=cache).isfinite().all()
    positions = torch.arange(70_000, 70_003, dtype=torch.float64)
    angles = positions[:, None] * torch.tensor(rotary_frequencies(model.config), dtype=torch.float64)
    for cos, sin in seen:
        assert (cos.dtype, sin.dtype) == (torch.float32, torch.float32)
        assert torch.allclose(cos[0, :, 0].double(), angles.cos(), rtol=0, atol=1e-7)
        assert torch.allclose(sin[0, :, 0].double(), angles.sin(), rtol=0, atol=1e-7)
    assert len(seen) == 2 * model.config.num_hidden_layers


@pytest.mark.tier1
def test_in_fp32_means_at_least() -> None:
    """Behavior: half precision is promoted, float64 is left alone."""
    dtypes = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    assert [torch.float32] * 3 + [torch.float64] == [at_least_fp32(dtype) for dtype in dtypes]


@pytest.mark.tier1
def test_a_tied_head_is_the_embedding_and_is_stored_once() -> None:
    """Behavior: one tensor through construction, move and load; the state holds the embedding alone."""
    untied, model = build_model(shape(), 0), build_model(shape(tie_word_embeddings=True), 0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert set(untied.state_dict()) - {"lm_head.weight"} == set(model.state_dict())
    assert "lm_head.weight" in untied.state_dict()
    model.double()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model(tokens(1, 3)).sum().backward()
    assert len(list(model.parameters())) == len(list(untied.parameters())) - 1


@pytest.mark.tier1
def test_weights_are_drawn_from_the_seed() -> None:
    """Behavior: the same seed gives the same bits, another one others, and the global generator is left alone."""
    state = torch.get_rng_state()
    first, again, other = (build_model(shape(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "norm" not in name)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.tier1
def test_weights_have_their_standard_deviations() -> None:
    """Reference: 0.02; / sqrt(2 x layers) where the residual stream is written; x sqrt(256 / width) for the head."""
    config = shape(hidden_size=1024, head_dim=16, vocab_size=300, num_hidden_layers=2)
    spreads = {
        name: float(weight.std()) for name, weight in build_model(config, 0).state_dict().items() if weight.dim() == 2
    }
    for name, spread in spreads.items():
        expected = 0.02
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            expected = 0.01
        if name == "lm_head.weight":
            expected = 0.01
        assert pytest.approx(expected, rel=0.03) == spread, name


@pytest.mark.tier1
@pytest.mark.parametrize("name", ["tiny", "124m", "1b", "7b"])
def test_the_first_loss_is_that_of_guessing(name: str) -> None:
    """Reference: ln(vocabulary), within 2%, at every shipped width.

    What the head adds is half the logits' variance, whatever the vocabulary and the blocks behind the last norm: so
    both are small here, and the 2% are those of the shipped vocabulary.
    """
    shipped = load_config(CONFIGS / f"{name}.toml").model
    narrow = {"vocab_size": 500, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 2}
    model = build_model(shipped.model_copy(update=narrow), 0)
    tokens_BT = torch.randint(0, 500, (2, 128), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        first = float(loss(model, Batch(tokens_BT, tokens_BT.flip(0), None)))
    assert abs(first - math.log(500)) < 0.02 * math.log(shipped.vocab_size)


@pytest.mark.tier2
@pytest.mark.parametrize("packed", [False, True])
def test_activation_checkpointing_changes_no_bit(packed: bool) -> None:
    """Behavior: the same loss and the same gradients, bitwise; and the blocks did run twice."""
    model = build_model(shape(), 0)
    tokens_BT = tokens(2, 8)
    documents_BT = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]] * 2) if packed else None
    batch = Batch(tokens_BT, tokens_BT.roll(-1, 1), documents_BT)
    runs = []
    forwards = []
    model.model.layers[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    for checkpointing in (False, True):
        model.activation_checkpointing = checkpointing
        model.zero_grad()
        value = loss(model, batch)
        value.backward()
        runs.append([value.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(plain, again) for plain, again in zip(*runs, strict=True))
    assert len(forwards) == 3


@pytest.mark.tier2
def test_activation_checkpointing_is_off_and_learns_beside_what_is_frozen() -> None:
    """Reference: the gradients without it. The first block's input needs none, as under an adapter."""
    model = build_model(shape(), 0)
    assert not model.activation_checkpointing
    model.model.embed_tokens.weight.requires_grad_(False)
    batch = Batch(tokens(2, 8), tokens(2, 8).roll(-1, 1), None)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = torch.autograd.grad(loss(model, batch), learned)
    model.activation_checkpointing = True
    model.zero_grad()
    loss(model, batch).backward()
    for parameter, expected in zip(learned, plain, strict=True):
        assert parameter.grad is not None
        assert torch.equal(expected, parameter.grad)


@pytest.mark.tier2
def test_each_weight_is_drawn_once_in_the_order_of_names() -> None:
    """Reference: torch's own draws from the same seed, times 0.02, 0.02 / sqrt(2 x 2) and 0.02 x sqrt(256 / 1024)."""
    model = build_model(shape(hidden_size=1024, head_dim=2, num_hidden_layers=2), 3)
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if "norm" in name:
            continue
        std = 0.01 if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")) else 0.02
        assert torch.equal(torch.empty(weight.shape).normal_(std=std, generator=generator), weight.detach()), name


@pytest.mark.tier2
def test_a_mask_is_made_only_where_plain_causal_will_not_do() -> None:
    """Behavior: none for a whole row or a single token, for which fused kernels take a flag; else 0 and -inf."""

    def mask_of(length: int, past: int, dtype: torch.dtype) -> Tensor | None:
        return llama._positions_and_mask(tokens(1, length), None, past, dtype)[1]

    assert mask_of(3, 0, torch.float32) is None
    assert mask_of(1, 5, torch.float32) is None
    mask = mask_of(2, 1, torch.bfloat16)
    assert mask is not None
    assert mask.dtype == torch.bfloat16
    assert [[[[0, 0, -math.inf], [0, 0, 0]]]] == mask.tolist()


@pytest.mark.tier2
def test_positions_are_whole_numbers_beyond_float32s() -> None:
    """Reference: Python's own cosine at 2^24 + 1, which a float32 cannot hold."""
    position = 2**24 + 1
    cos, sin = rotary_angles(torch.tensor([[position]]), shape(head_dim=2), torch.float64)
    assert pytest.approx([math.cos(position), math.sin(position)], abs=1e-12) == [float(cos), float(sin)]


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_norm_has_its_gradients_from_float32(dtype: torch.dtype) -> None:
    """Reference: float64 of the same numbers. Squares of 300 are beyond float16, and sums are beyond bfloat16's digits.

    What its backward itself hands out has each input's shape and dtype, before autograd sums and rounds; a frozen gain
    costs nothing.
    """
    generator = torch.Generator().manual_seed(7)
    x = (300 * torch.randn(6, 8, generator=generator)).to(dtype).requires_grad_()
    weight, grad = torch.linspace(0.5, 2, 8).requires_grad_(), torch.randn(6, 8, generator=generator).to(dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight)]
    expected_x, expected_weight = torch.autograd.grad(rms_norm(*exact, 1e-5), exact, grad.double())
    node: Any = rms_norm(x, weight, 1e-5).grad_fn
    with torch.no_grad():
        grad_x, grad_weight, *_ = node.apply(grad)
    assert [(dtype, x.shape), (torch.float32, weight.shape)] == [(g.dtype, g.shape) for g in (grad_x, grad_weight)]
    error = (grad_x.double() - expected_x).abs()
    assert (error <= torch.finfo(dtype).eps * expected_x.abs() + 1e-6 * expected_x.abs().max()).all()
    assert distance(grad_weight, expected_weight) < 1e-6
    frozen: Any = rms_norm(x, weight.detach(), 1e-5).grad_fn
    assert frozen.apply(grad)[1] is None
    half: Any = rms_norm(x, weight.to(dtype).detach().requires_grad_(), 1e-5).grad_fn
    assert half.apply(grad)[1].dtype == dtype


@pytest.mark.tier2
def test_products_are_in_autocasts_dtype_where_it_is_on() -> None:
    """Behavior: and else in the tensor's own; a norm hands on what the next product will take."""
    x = torch.ones(2, 4)
    assert [torch.float32, torch.float64] == [compute_dtype(x), compute_dtype(x.double())]
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(x) == rms_norm(x, x[0], 1e-5).dtype == torch.bfloat16
