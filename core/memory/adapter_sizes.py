"""Parameters and bytes of LoRA and QLoRA, as `sizes` has those of full fine-tuning: arithmetic alone.

The frozen base is in the dtype of the matrix products, under QLoRA with its blocks' matrices in NF4; adapters, their
gradients and Adam's moments are float32. A frozen matrix needs neither its input nor a gradient, and nothing is saved
before the first adapter.
Legend: D hidden, F ffn, Q width of all queries, K width of all keys.
"""

import math
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from andon.core.adapters.nf4_blocks import BLOCK, NESTED_BLOCK, SLAB, block_count
from andon.core.adapters.targets import HEAD, LinearShape, plan
from andon.core.config import Config
from andon.core.memory.sizes import (
    FP32,
    INT64,
    MemorySnapshot,
    Shape,
    Step,
    chunk_rows,
    count_parameters,
    memory_snapshots,
    rope_and_mask_bytes,
    shape_of,
)

ABSMAX_LEVELS = 256  # of an 8-bit absmax, float32

QKV_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUTPUT_PROJECTION = ("self_attn.o_proj",)
GATE_UP_PROJECTIONS = ("mlp.gate_proj", "mlp.up_proj")
DOWN_PROJECTION = ("mlp.down_proj",)


class AdapterShape(NamedTuple):
    """The settings of an adapter and its base that determine sizes."""

    ranks: tuple[dict[str, int], ...]  # by layer, then by projection
    dropout: bool
    quantized: bool
    double: bool


class SavedActivations(NamedTuple):
    """Bytes that a block saves for its backward pass, and whether its output needs a gradient."""

    bytes: int
    needs_grad: bool


def projections(shape: Shape) -> dict[str, LinearShape]:
    """Inputs and outputs of a block's matrices, by their modules' names within it."""
    hidden, queries, keys = shape.hidden, shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    attention = ((hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden))
    mlp = ((hidden, shape.ffn), (hidden, shape.ffn), (shape.ffn, hidden))
    return dict(
        zip(
            (*QKV_PROJECTIONS, *OUTPUT_PROJECTION, *GATE_UP_PROJECTIONS, *DOWN_PROJECTION),
            (*attention, *mlp),
            strict=True,
        )
    )


def modules(shape: Shape) -> dict[str, LinearShape | None]:
    """Inputs and outputs of the model's modules by name, None for those that are not linear."""
    found: dict[str, LinearShape | None] = dict.fromkeys(("model", "model.embed_tokens", "model.layers", "model.norm"))
    for block in (f"model.layers.{layer}" for layer in range(shape.layers)):
        parts = ("", ".self_attn", ".mlp", ".input_layernorm", ".post_attention_layernorm")
        found |= dict.fromkeys(f"{block}{part}" for part in parts)
        found |= {f"{block}.{part}": sides for part, sides in projections(shape).items()}
    return found | {HEAD: (shape.hidden, shape.vocab)}


def adapter_shape_of(config: Config, method: str) -> AdapterShape:
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
    return AdapterShape(ranks, table.dropout > 0, quantized, quantized and config.qlora.double_quantization)


def trainable_parameters(shape: Shape, adapter: AdapterShape) -> int:
    """r (inputs + outputs) for each adapted matrix."""
    return sum(_adapter_parameters(shape, ranks) for ranks in adapter.ranks)


def nf4_bytes(elements: int, double: bool) -> int:
    """Codes and absmaxes of one matrix; doubly quantized, 8-bit absmaxes, theirs, and an offset."""
    codes, blocks = block_count(elements, 2), block_count(elements, BLOCK)
    return codes + (blocks + FP32 * block_count(blocks, NESTED_BLOCK) + FP32 if double else FP32 * blocks)


def base_bytes(shape: Shape, step: Step, adapter: AdapterShape) -> int:
    """The frozen weights."""
    count = count_parameters(shape)
    if not adapter.quantized:
        return step.width * count.total
    matrices = sum(nf4_bytes(math.prod(sides), adapter.double) for sides in projections(shape).values())
    rest = step.width * (count.total - count.attention - count.mlp)
    return shape.layers * matrices + rest + FP32 * ABSMAX_LEVELS * adapter.double


def adapter_saved_bytes(shape: Shape, step: Step, adapter: AdapterShape) -> tuple[SavedActivations, ...]:
    """What each block saves in the forward pass, without activation checkpointing."""

    def above(below: SavedActivations, ranks: dict[str, int]) -> SavedActivations:
        return _block(shape, step, adapter, ranks, flows=below.needs_grad)

    return tuple(accumulate(adapter.ranks, above, initial=SavedActivations(0, needs_grad=False)))[1:]


def adapter_memory_snapshots(shape: Shape, step: Step, adapter: AdapterShape) -> tuple[MemorySnapshot, ...]:
    """As `sizes.memory_snapshots`: memory at the points of a step where it can peak, in order."""
    tokens, width = step.rows * step.length, step.width
    trainable = trainable_parameters(shape, adapter)
    adapted = sum(len(ranks) for ranks in adapter.ranks)
    optimizer = 2 * FP32 * trainable + 2 * FP32 * adapted  # two moments each; a step count for each of two factors
    weights = base_bytes(shape, step, adapter) + FP32 * trainable
    residual, inner = width * tokens * shape.hidden, width * tokens * shape.ffn
    blocks = adapter_saved_bytes(shape, step, adapter)
    saved_by_block = [min(saved.bytes, residual) if step.checkpointing else saved.bytes for saved in blocks]
    first = next(index for index, ranks in enumerate(adapter.ranks) if ranks)
    layout = rope_and_mask_bytes(shape, step)

    def working(layer: int) -> int:
        again = blocks[layer].bytes - saved_by_block[layer]
        product = inner * (DOWN_PROJECTION[0] in adapter.ranks[layer])
        elements = shape.hidden * shape.ffn
        multiplied = width * elements * adapter.quantized + inner  # what the matrix was made from is freed by then
        matrix = max(dequantized_bytes(elements, width, adapter), multiplied)
        return again + residual + max(3 * inner - product, matrix)

    def snapshot(when: str, fresh: int, activations: int, head: int = 0, layout: int = 0) -> MemorySnapshot:
        gradients = FP32 * (trainable if step.accumulating else fresh)
        parts = (weights, gradients, optimizer, activations, head, 3 * INT64 * tokens + layout)
        return MemorySnapshot(when, *parts, total=sum(parts))

    begun = _adapter_parameters(shape, adapter.ranks[first])
    norm = FP32 * tokens * shape.hidden * (4 + 2 * (width < FP32))  # four intermediates; half precision is copied
    return (
        snapshot("loss", 0, sum(saved_by_block) + residual, frozen_head_bytes(shape, step), layout),
        snapshot("backward, last norm", 0, sum(saved_by_block) + 2 * residual + norm, 0, layout),
        snapshot("backward, last block", 0, sum(saved_by_block) + working(-1), 0, layout),
        snapshot("backward, first block", trainable - begun, saved_by_block[first] + working(first), 0, layout),
        snapshot("optimizer", trainable, 0),
    )


def frozen_head_bytes(shape: Shape, step: Step) -> int:
    """Working memory of the chunked loss when the head takes no gradient: a chunk's logits and their log-softmax."""
    tokens = step.rows * step.length
    chunk = 2 * FP32 * chunk_rows(shape, step) * shape.vocab
    return chunk + tokens * (shape.hidden * (2 * step.width + FP32) + INT64)


def dequantized_bytes(elements: int, width: int, adapter: AdapterShape) -> int:
    """Memory to dequantize a matrix: the result, a slab's indices, its float32 values unless in place, absmaxes."""
    if not adapter.quantized:
        return 0
    slab = min(elements, SLAB) * (INT64 // 2 + FP32 * (width < FP32))
    return width * elements + slab + FP32 * block_count(elements, BLOCK) * adapter.double


def snapshots_for(config: Config, method: str) -> Callable[[Step], tuple[MemorySnapshot, ...]]:
    """The memory snapshots by method "full", "lora" or "qlora", as a function of the step.

    Raises:
        LoraError: as `adapter_shape_of`.
    """
    shape = shape_of(config)
    if method == "full":
        return lambda step: memory_snapshots(shape, step)
    adapter = adapter_shape_of(config, method)
    return lambda step: adapter_memory_snapshots(shape, step, adapter)


def _block(shape: Shape, step: Step, adapter: AdapterShape, ranks: dict[str, int], flows: bool) -> SavedActivations:
    """One block's saved activations. `flows`: its input needs a gradient, as there is an adapter in an earlier block.

    Norms save their input (D), attention q, k, v, its result (2 Q + 2 K) and one log-sum-exp per head, SwiGLU gate and
    up (2 F): each where a gradient flows through. An adapter saves its input, shared by q, k and v and by gate and up,
    and r numbers per token. With dropout its input is separate, and so is the noise, where a gradient must pass it.
    """
    sides = projections(shape)

    def adapters(parts: tuple[str, ...], flows: bool, shared: bool = False) -> int:
        widths = [sides[part][0] for part in parts if part in ranks]
        inputs = sum(widths) * (1 + flows) if adapter.dropout else max(widths, default=0) * (not shared)
        return inputs + sum(ranks.get(part, 0) for part in parts)

    attended = flows or not ranks.keys().isdisjoint(QKV_PROJECTIONS)
    middle = attended or not ranks.keys().isdisjoint(OUTPUT_PROJECTION)
    inner = middle or not ranks.keys().isdisjoint(GATE_UP_PROJECTIONS)
    heads = 2 * (shape.heads + shape.kv_heads) * shape.head_size
    elements = (
        (shape.hidden * flows + adapters(QKV_PROJECTIONS, flows))
        + (heads * attended + adapters(OUTPUT_PROJECTION, attended, shared=attended))
        + (shape.hidden * middle + adapters(GATE_UP_PROJECTIONS, middle))
        + (2 * shape.ffn * inner + adapters(DOWN_PROJECTION, inner))
    )
    tokens = step.rows * step.length
    saved = tokens * (step.width * elements + FP32 * shape.heads * attended)
    return SavedActivations(saved, inner or not ranks.keys().isdisjoint(DOWN_PROJECTION))


def _adapter_parameters(shape: Shape, ranks: dict[str, int]) -> int:
    sides = projections(shape)
    return sum(rank * sum(sides[part]) for part, rank in ranks.items())
