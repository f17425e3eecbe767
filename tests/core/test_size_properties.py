"""What is true of the sizes of every shape: a hundred drawn ones each. Named bugs in the arithmetic turn each red."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from andon.core.config import ModelConfig, load_config
from andon.core.memory import adapter_sizes, sizes
from andon.core.memory.sizes import ParameterCounts, Shape, Step
from andon.core.model import llama as model
from andon.core.model.llama import Llama

pytestmark = [pytest.mark.long, pytest.mark.hypothesis]

CONFIGS = Path(__file__).parents[2] / "configs"
BOUNDS = {"tiny": (1e4, 1e7), "small": (1e6, 1e8), "124m": (1.2e8, 1.7e8), "1b": (0.9e9, 1.2e9), "7b": (6.5e9, 7.0e9)}
DRAWS = 100


@st.composite
def shapes(draw: st.DrawFn, largest: int = 1 << 14) -> Shape:
    """Any shape that a configuration may have; the widths need not be related."""
    kv_heads, group = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    hidden, ffn, vocab = (draw(st.integers(1, largest)) for _ in range(3))
    return Shape(
        max(2, vocab), hidden, ffn, draw(st.integers(1, 40)), kv_heads * group, kv_heads,
        2 * draw(st.integers(1, 64)), draw(st.booleans()),
    )  # fmt: skip


STEPS = st.builds(Step, st.integers(1, 64), st.integers(1, 512), st.sampled_from([2, 4]), st.booleans(), st.booleans())
LOPSIDED = Shape(vocab=101, hidden=24, ffn=56, layers=3, heads=6, kv_heads=2, head_size=10, tied=False)
STEP = Step(rows=3, length=17, width=2, checkpointing=False, accumulating=False)


def config_of(shape: Shape, **keys: Any) -> ModelConfig:
    """The table that has this shape."""
    return ModelConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_size,
        tie_word_embeddings=shape.tied, **keys,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ properties
def formula(shape: Shape, _step: Step) -> None:
    """Parameters by part are those of a model that is built, tensor by tensor."""
    few = shape._replace(layers=min(3, shape.layers))
    with torch.device("meta"):
        built = {name: tensor.shape for name, tensor in Llama(config_of(few)).named_parameters()}

    def count(word: str) -> int:
        return sum(math.prod(size) for name, size in built.items() if word in name)

    parts = (count("embed"), count("self_attn"), count("mlp."), count("norm"), count("lm_head"))
    assert (*parts, sum(parts)) == tuple(sizes.count_parameters(few))
    assert len(built) == sizes.parameter_tensors(few)


def linear_in_layers(shape: Shape, step: Step) -> None:
    """Each layer adds the same parameters, and to what is kept for the backward pass the same bytes."""
    counted = [sizes.count_parameters(shape._replace(layers=layers)) for layers in (1, 2, 3, shape.layers)]
    block = counted[1].total - counted[0].total
    assert counted[2].total - counted[1].total == block > 0
    assert counted[0].total + (shape.layers - 1) * block == counted[3].total
    held = [sizes.memory_snapshots(shape._replace(layers=layers), step)[0].activations for layers in (1, 2, 3)]
    assert held[1] - held[0] == held[2] - held[1] == sizes.saved_bytes(shape, step)


def quadratic_in_width(shape: Shape, _step: Step) -> None:
    """Twice all widths: four times the matrices of the blocks, twice the norms and the embedding."""
    wide = shape._replace(hidden=2 * shape.hidden, ffn=2 * shape.ffn, head_size=2 * shape.head_size)
    one, two = sizes.count_parameters(shape), sizes.count_parameters(wide)
    assert (4 * one.attention, 4 * one.mlp) == (two.attention, two.mlp)
    assert (2 * one.norms, 2 * one.embedding, 2 * one.head) == (two.norms, two.embedding, two.head)


def blocks_know_no_vocabulary(shape: Shape, step: Step) -> None:
    """Another vocabulary changes the embedding and the head, by the width for each word, and nothing of a block."""
    one, two = sizes.count_parameters(shape), sizes.count_parameters(shape._replace(vocab=shape.vocab + 1))
    assert (one.attention, one.mlp, one.norms) == (two.attention, two.mlp, two.norms)
    assert shape.hidden == two.embedding - one.embedding
    assert shape.hidden * (2 - shape.tied) == two.total - one.total
    assert sizes.block_bytes(shape, step) == sizes.block_bytes(shape._replace(vocab=shape.vocab + 1), step)


def tying_saves_one_matrix(shape: Shape, _step: Step) -> None:
    """A tied head has no parameters and no tensor of its own."""
    free, tied = shape._replace(tied=False), shape._replace(tied=True)
    assert shape.vocab * shape.hidden == sizes.count_parameters(free).total - sizes.count_parameters(tied).total
    assert 1 == sizes.parameter_tensors(free) - sizes.parameter_tensors(tied)


def grows(shape: Shape, step: Step) -> None:
    """More of anything is never less, in parameters or bytes; of what adds a parameter it is more.

    But for one row of a chunk of the loss: a chunk is whole rows, of which a larger vocabulary has fewer.
    """
    base = sizes.count_parameters(shape).total
    bytes_ = sizes.peak_memory(shape, step).total
    for key in ("vocab", "hidden", "ffn", "layers", "head_size"):
        more = shape._replace(**{key: getattr(shape, key) + (2 if key == "head_size" else 1)})
        assert sizes.count_parameters(more).total > base, key
        row = 8 * more.vocab if key == "vocab" else 0
        assert sizes.peak_memory(more, step).total + row > bytes_, key
    for key in ("rows", "length"):
        assert sizes.peak_memory(shape, step._replace(**{key: getattr(step, key) + 1})).total >= bytes_, key
    assert (
        sizes.peak_memory(shape, step._replace(checkpointing=True)).total
        <= sizes.peak_memory(shape, step._replace(checkpointing=False)).total
    )


def memory(shape: Shape, step: Step) -> None:
    """AdamW in float32 holds 16 bytes per parameter after a step, and a step count per tensor; a peak no less."""
    total = sizes.count_parameters(shape).total
    end = sizes.memory_snapshots(shape, step)[-1]
    assert (4 * total, 4 * total) == (end.weights, end.gradients)
    assert 8 * total + 4 * sizes.parameter_tensors(shape) == end.optimizer
    assert sizes.peak_memory(shape, step).total >= 16 * total
    whole = 64 * 256 * total  # weights, of which 64 share a scale and 64 x 256 a scale of scales
    assert 8 * adapter_sizes.nf4_bytes(whole, True) == 4 * whole + 8 * whole // 64 + 32 * total + 32
    assert adapter_sizes.nf4_bytes(total, False) == -(-total // 2) + 4 * -(-total // 64)


def whole_numbers(shape: Shape, step: Step) -> None:
    """No sum overflows or rounds: sizes stay exact integers far beyond 64 bits."""
    vast = shape._replace(vocab=shape.vocab << 40, hidden=shape.hidden << 40)
    found = [
        *sizes.count_parameters(vast),
        *(value for moment in sizes.memory_snapshots(vast, step) for value in moment[1:]),
    ]
    assert all(type(value) is int and value >= 0 for value in found)
    assert sizes.count_parameters(vast).embedding == sizes.count_parameters(shape).embedding << 80
    assert sizes.count_parameters(vast).total > sys.maxsize


def frequencies(shape: Shape, step: Step) -> None:
    """One frequency a pair, 1 first, each theta^(-2/H) of the one before; their angles finite and exact."""
    theta = float(2 + step.length * 1000)
    found = model.rotary_frequencies(config_of(shape, rope_theta=theta))
    assert shape.head_size // 2 == len(found)
    assert 1.0 == found[0]
    for i, frequency in enumerate(found):
        assert pytest.approx(math.exp(-2 * i / shape.head_size * math.log(theta)), rel=1e-12) == frequency
    place = torch.tensor([[step.length * step.rows * 4]])
    for table in model.rotary_angles(place, config_of(shape, rope_theta=theta), torch.float32):
        assert bool(table.isfinite().all())
        assert float(table.abs().max()) <= 1.0
    turned = model.rotary_angles(place, config_of(shape, rope_theta=theta), torch.float64)[0].flatten()
    exact = [math.cos(int(place) * frequency) for frequency in found]
    assert torch.allclose(turned[: len(found)], torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-9)


PROPERTIES = {
    each.__name__: each
    for each in (
        formula,
        linear_in_layers,
        quadratic_in_width,
        blocks_know_no_vocabulary,
        tying_saves_one_matrix,
        grows,
        memory,
        whole_numbers,
        frequencies,
    )
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_sizes(name: str) -> None:
    """Behavior: the property holds for a hundred shapes and steps."""

    @settings(max_examples=DRAWS)
    @given(shapes(), STEPS)
    def holds(shape: Shape, step: Step) -> None:
        PROPERTIES[name](shape, step)

    holds()


@settings(max_examples=DRAWS)
@given(shapes(), st.integers(1, 9))
def test_divisibility(shape: Shape, extra: int) -> None:
    """Behavior: heads that do not divide the width, or are not a multiple of the keys', and odd heads are refused."""
    table = config_of(shape).model_dump(exclude_none=True)
    with pytest.raises(ValidationError, match="does not divide"):
        ModelConfig.model_validate(table | {"num_key_value_heads": shape.heads + extra})
    with pytest.raises(ValidationError, match="is odd"):
        ModelConfig.model_validate(table | {"head_dim": shape.head_size + 1})
    del table["head_dim"]
    fits = shape.hidden % shape.heads == 0
    if fits and (shape.hidden // shape.heads) % 2 == 0:
        assert shape.hidden // shape.heads == ModelConfig.model_validate(table).head_size
    else:
        with pytest.raises(ValidationError, match="is odd" if fits else "not divisible"):
            ModelConfig.model_validate(table)


@settings(max_examples=DRAWS)
@given(st.sampled_from(sorted(BOUNDS)), STEPS)
def test_bounds_of_standard_configurations(name: str, step: Step) -> None:
    """Behavior: each has the parameters that its name says, and at least 16 bytes of memory for each, at any batch."""
    shape = sizes.shape_of(load_config(CONFIGS / f"{name}.toml"))
    low, high = BOUNDS[name]
    total = sizes.count_parameters(shape).total
    assert low <= total <= high
    assert 16 * total <= sizes.peak_memory(shape, step).total


# ------------------------------------------------------------------------------------------------ bugs
def counted(**changes: Callable[[Shape], int]) -> Callable[[Any], None]:
    """An injected fault: some parts of the parameters are counted in another way."""

    def inject(patch: Any) -> None:
        right = sizes.count_parameters

        def wrong(shape: Shape) -> ParameterCounts:
            parts = right(shape)._replace(**{part: change(shape) for part, change in changes.items()})
            return parts._replace(total=sum(parts[:-1]))

        patch.setattr(sizes, "count_parameters", wrong)

    return inject


def replaced(module: Any, name: str, change: Callable[..., Any]) -> Callable[[Any], None]:
    """An injected fault: a function whose result is changed; the change sees its arguments, too."""

    def inject(patch: Any) -> None:
        right = getattr(module, name)
        patch.setattr(module, name, lambda *given: change(right(*given), *given))

    return inject


def heads(shape: Shape) -> int:
    """Width of all queries."""
    return shape.heads * shape.head_size


BUGS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "four projections of one width": ("formula", counted(attention=lambda s: 4 * s.layers * s.hidden * heads(s))),
    "three projections in attention": (
        "formula",
        counted(attention=lambda s: s.layers * s.hidden * (heads(s) + 2 * s.kv_heads * s.head_size)),
    ),
    "two matrices in SwiGLU": ("formula", counted(mlp=lambda s: 2 * s.layers * s.hidden * s.ffn)),
    "hidden and ffn swapped": ("formula", counted(mlp=lambda s: 3 * s.layers * s.ffn * s.ffn)),
    "queries as wide as the model": (
        "formula",
        counted(attention=lambda s: 2 * s.layers * s.hidden * (s.hidden + s.kv_heads * s.head_size)),
    ),
    "no last norm": ("formula", counted(norms=lambda s: 2 * s.layers * s.hidden)),
    "a layer too few": ("formula", counted(mlp=lambda s: 3 * (s.layers - 1) * s.hidden * s.ffn)),
    "norms not by layer": ("formula", counted(norms=lambda s: 3 * s.hidden)),
    "a last layer that is half": ("linear_in_layers", counted(mlp=lambda s: 3 * s.layers**2 * s.hidden * s.ffn)),
    "width once": ("quadratic_in_width", counted(mlp=lambda s: 3 * s.layers * s.hidden * 64)),
    "vocabulary in the blocks": (
        "blocks_know_no_vocabulary",
        counted(mlp=lambda s: 3 * s.layers * s.hidden * s.ffn + s.vocab),
    ),
    "a tied head counted": ("tying_saves_one_matrix", counted(head=lambda s: s.vocab * s.hidden)),
    "ffn left out": ("grows", counted(mlp=lambda s: 3 * s.layers * s.hidden * s.hidden)),
    "rows left out": (
        "grows",
        replaced(sizes, "peak_memory", lambda made, shape, step: made._replace(total=made.total // step.rows**2)),
    ),
    "one moment": ("memory", replaced(sizes, "optimizer_bytes", lambda made, shape: made // 2)),
    "no step counts": (
        "memory",
        replaced(sizes, "optimizer_bytes", lambda made, shape: 8 * sizes.count_parameters(shape).total),
    ),
    "eight bits for four": ("memory", replaced(adapter_sizes, "nf4_bytes", lambda made, elements, double: 2 * made)),
    "no absmaxes": ("memory", replaced(adapter_sizes, "nf4_bytes", lambda made, elements, double: -(-elements // 2))),
    "wrapped at 64 bits": (
        "whole_numbers",
        replaced(sizes, "count_parameters", lambda made, shape: ParameterCounts._make(value % 2**63 for value in made)),
    ),
    "floating point": (
        "whole_numbers",
        replaced(sizes, "count_parameters", lambda made, shape: ParameterCounts._make(map(float, made))),
    ),
    "frequencies by i over H": (
        "frequencies",
        replaced(model, "rotary_frequencies", lambda made, table: [value**0.5 for value in made]),
    ),
    "theta left at 10000": (
        "frequencies",
        replaced(
            model,
            "rotary_frequencies",
            lambda made, table: [10000 ** (-2 * i / table.head_size) for i in range(len(made))],
        ),
    ),
    "frequencies in bfloat16": (
        "frequencies",
        replaced(model, "rotary_frequencies", lambda made, table: torch.tensor(made).bfloat16().tolist()),
    ),
    "a frequency an entry": ("frequencies", replaced(model, "rotary_frequencies", lambda made, table: made + made)),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_the_arithmetic_turns_its_property_red(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: of a shape whose sizes all differ the property holds, and with the bug it does not."""
    name, inject = BUGS[bug]
    PROPERTIES[name](LOPSIDED, STEP)
    inject(monkeypatch)
    tied = LOPSIDED._replace(tied=bug.startswith("a tied"))
    with pytest.raises(AssertionError):
        PROPERTIES[name](tied, STEP)


def test_every_property_has_a_bug() -> None:
    """Behavior: none stands here that has not been red."""
    assert set(PROPERTIES) == {name for name, _ in BUGS.values()}
