"""Parameters and bytes of LoRA and QLoRA, beside those of full fine-tuning in `sizes`: arithmetic alone.

The frozen base is held in the dtype of the matrix products, its blocks' matrices in NF4 under QLoRA; adapters, their
gradients and moments are float32. A frozen matrix needs neither its input nor a gradient, and before the first adapter
nothing is kept at all.
Legend: D hidden, F ffn, Q width of all queries, K width of all keys.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from andon.core.adapters.nf4_blocks import BLOCK, NESTED_BLOCK, SLAB, block_count
from andon.core.adapters.targets import HEAD, Sides, plan
from andon.core.config import Config
from andon.core.memory.sizes import (
    FLOAT,
    INDEX,
    Moment,
    Shape,
    Step,
    chunk_rows,
    layout_bytes,
    moments,
    parameters,
    shape_of,
)

ABSMAX_LEVELS = 256  # of an 8-bit absmax, float32

ENTERING = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LEAVING = ("self_attn.o_proj",)
WIDENING = ("mlp.gate_proj", "mlp.up_proj")
NARROWING = ("mlp.down_proj",)


class Tuning(NamedTuple):
    """What of an adapter, and of the base below it, decides sizes."""

    ranks: tuple[dict[str, int], ...]  # by layer, then by projection
    dropout: bool
    quantized: bool
    double: bool


class Kept(NamedTuple):
    """What a block keeps for its backward pass, and whether what comes out of it needs a gradient."""

    bytes: int
    flows: bool


def projections(shape: Shape) -> dict[str, Sides]:
    """Inputs and outputs of a block's matrices, by their modules' names within it."""
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = ((hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden))
    mlp = ((hidden, shape.ffn), (hidden, shape.ffn), (shape.ffn, hidden))
    return dict(zip((*ENTERING, *LEAVING, *WIDENING, *NARROWING), (*attention, *mlp), strict=True))


def modules(shape: Shape) -> dict[str, Sides | None]:
    """Inputs and outputs of the model's modules by name, None for those that are not linear."""
    found: dict[str, Sides | None] = dict.fromkeys(("model", "model.embed_tokens", "model.layers", "model.norm"))
    for block in (f"model.layers.{layer}" for layer in range(shape.layers)):
        parts = ("", ".self_attn", ".mlp", ".input_layernorm", ".post_attention_layernorm")
        found |= dict.fromkeys(f"{block}{part}" for part in parts)
        found |= {f"{block}.{part}": sides for part, sides in projections(shape).items()}
    return found | {HEAD: (shape.hidden, shape.vocab)}


def tuning_of(config: Config, method: str) -> Tuning:
    """The adapter that a run's `[lora]` or `[qlora]` describes.

    Raises:
        LoraError: a target or pattern matches nothing, or a rank is above the smaller side of its matrix.
    """
    table = config.qlora if method == "qlora" else config.lora
    shape, quantized = shape_of(config), method == "qlora"
    planned = plan(modules(shape), table)
    ranks: tuple[dict[str, int], ...] = tuple({} for _ in range(shape.layers))
    for name, factors in planned.items():
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        ranks[int(layer)][part] = factors.rank
    return Tuning(ranks, table.dropout > 0, quantized, quantized and config.qlora.double_quantization)


def trainable_parameters(shape: Shape, tuning: Tuning) -> int:
    """r (inputs + outputs) for each adapted matrix."""
    return sum(_adapter_parameters(shape, ranks) for ranks in tuning.ranks)


def nf4_bytes(elements: int, double: bool) -> int:
    """Codes and absmaxes of one matrix; doubly quantized, 8-bit absmaxes, theirs, and an offset."""
    codes, blocks = block_count(elements, 2), block_count(elements, BLOCK)
    return codes + (blocks + FLOAT * block_count(blocks, NESTED_BLOCK) + FLOAT if double else FLOAT * blocks)


def base_bytes(shape: Shape, step: Step, tuning: Tuning) -> int:
    """The frozen weights."""
    count = parameters(shape)
    if not tuning.quantized:
        return step.width * count.total
    matrices = sum(nf4_bytes(math.prod(sides), tuning.double) for sides in projections(shape).values())
    rest = step.width * (count.total - count.attention - count.mlp)
    return shape.layers * matrices + rest + FLOAT * ABSMAX_LEVELS * tuning.double


def kept_bytes(shape: Shape, step: Step, tuning: Tuning) -> tuple[Kept, ...]:
    """What each block leaves behind in the forward pass when nothing is computed again."""

    def above(below: Kept, ranks: dict[str, int]) -> Kept:
        return _block(shape, step, tuning, ranks, below.flows)

    return tuple(accumulate(tuning.ranks, above, initial=Kept(0, flows=False)))[1:]


def adapted_moments(shape: Shape, step: Step, tuning: Tuning) -> tuple[Moment, ...]:
    """As `sizes.moments`: where a step's memory can be at its peak, in order."""
    tokens, width = step.rows * step.length, step.width
    trainable = trainable_parameters(shape, tuning)
    adapted = sum(len(ranks) for ranks in tuning.ranks)
    optimizer = 2 * FLOAT * trainable + 2 * FLOAT * adapted  # two moments each; a step count for each of two factors
    weights = base_bytes(shape, step, tuning) + FLOAT * trainable
    residual, inner = width * tokens * shape.hidden, width * tokens * shape.ffn
    blocks = kept_bytes(shape, step, tuning)
    held = [min(kept.bytes, residual) if step.checkpointing else kept.bytes for kept in blocks]
    first = next(index for index, ranks in enumerate(tuning.ranks) if ranks)
    layout = layout_bytes(shape, step)

    def working(layer: int) -> int:
        again = blocks[layer].bytes - held[layer]
        product = inner * (NARROWING[0] in tuning.ranks[layer])
        elements = shape.hidden * shape.ffn
        multiplied = width * elements * tuning.quantized + inner  # what the matrix was made from is gone by then
        matrix = max(dequantized_bytes(elements, width, tuning), multiplied)
        return again + residual + max(3 * inner - product, matrix)

    def moment(when: str, fresh: int, activations: int, head: int = 0, layout: int = 0) -> Moment:
        gradients = FLOAT * (trainable if step.accumulating else fresh)
        parts = (weights, gradients, optimizer, activations, head, 3 * INDEX * tokens + layout)
        return Moment(when, *parts, total=sum(parts))

    begun = _adapter_parameters(shape, tuning.ranks[first])
    norm = FLOAT * tokens * shape.hidden * (4 + 2 * (width < FLOAT))  # four intermediates; half precision is copied
    return (
        moment("loss", 0, sum(held) + residual, frozen_head_bytes(shape, step), layout),
        moment("backward, last norm", 0, sum(held) + 2 * residual + norm, 0, layout),
        moment("backward, last block", 0, sum(held) + working(-1), 0, layout),
        moment("backward, first block", trainable - begun, held[first] + working(first), 0, layout),
        moment("optimizer", trainable, 0),
    )


def frozen_head_bytes(shape: Shape, step: Step) -> int:
    """Working memory of the chunked loss when the head takes no gradient: a chunk's logits and their log-softmax."""
    tokens = step.rows * step.length
    chunk = 2 * FLOAT * chunk_rows(shape, step) * shape.vocab
    return chunk + tokens * (shape.hidden * (2 * step.width + FLOAT) + INDEX)


def dequantized_bytes(elements: int, width: int, tuning: Tuning) -> int:
    """A matrix while it is dequantized: itself, a slab's indices, its float32 values unless these are it, absmaxes."""
    if not tuning.quantized:
        return 0
    slab = min(elements, SLAB) * (INDEX // 2 + FLOAT * (width < FLOAT))
    return width * elements + slab + FLOAT * block_count(elements, BLOCK) * tuning.double


def moments_of(config: Config, method: str) -> Callable[[Step], tuple[Moment, ...]]:
    """The moments of a step by method "full", "lora" or "qlora", as a function of the step.

    Raises:
        LoraError: as `tuning_of`.
    """
    shape = shape_of(config)
    if method == "full":
        return lambda step: moments(shape, step)
    tuning = tuning_of(config, method)
    return lambda step: adapted_moments(shape, step, tuning)


def _block(shape: Shape, step: Step, tuning: Tuning, ranks: dict[str, int], flows: bool) -> Kept:
    """One block's share. `flows`: what comes in needs a gradient, since there is an adapter below.

    Norms keep their input (D), attention q, k, v, its result (2 Q + 2 K) and a log-sum-exp a head, SwiGLU gate and up
    (2 F): each where a gradient flows through. An adapter keeps its input, which q, k and v share, as gate and up do,
    and r numbers a token. With dropout its input is its own, and so is the noise, where a gradient must pass it.
    """
    sides = projections(shape)

    def adapters(parts: tuple[str, ...], flows: bool, shared: bool = False) -> int:
        widths = [sides[part][0] for part in parts if part in ranks]
        inputs = sum(widths) * (1 + flows) if tuning.dropout else max(widths, default=0) * (not shared)
        return inputs + sum(ranks.get(part, 0) for part in parts)

    attended = flows or not ranks.keys().isdisjoint(ENTERING)
    middle = attended or not ranks.keys().isdisjoint(LEAVING)
    inner = middle or not ranks.keys().isdisjoint(WIDENING)
    heads = 2 * (shape.heads + shape.kv_heads) * shape.head_size
    elements = (
        (shape.hidden * flows + adapters(ENTERING, flows))
        + (heads * attended + adapters(LEAVING, attended, shared=attended))
        + (shape.hidden * middle + adapters(WIDENING, middle))
        + (2 * shape.ffn * inner + adapters(NARROWING, inner))
    )
    tokens = step.rows * step.length
    kept = tokens * (step.width * elements + FLOAT * shape.heads * attended)
    return Kept(kept, inner or not ranks.keys().isdisjoint(NARROWING))


def _adapter_parameters(shape: Shape, ranks: dict[str, int]) -> int:
    sides = projections(shape)
    return sum(rank * sum(sides[part]) for part, rank in ranks.items())
