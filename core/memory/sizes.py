"""Parameters and bytes of full fine-tuning, computed from the configuration in integers, without building a model.

Weights, gradients and Adam's moments are float32; matrix products run in `training.dtype`. A step's peak is the largest
of a few snapshots, each the sum of all live tensors; packed rows, and so a mask, are assumed. Workspace inside kernels
and rounding by the allocator are not counted.
Legend: B rows, T positions, D hidden, F ffn, Q width of all queries, K width of all keys, N query heads, V vocab.
"""

from collections.abc import Callable
from typing import NamedTuple

from andon.core.config import Config

FP32, INT64 = 4, 8  # bytes of a float32 and of an int64
CHUNK_ELEMENTS = 1 << 23  # logits of one chunk of the loss: 32 MiB in float32


class Shape(NamedTuple):
    """The integers of a model that determine its sizes."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool


class ParameterCounts(NamedTuple):
    """Numbers of parameters by part; a tied head has none."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int
    total: int


class Step(NamedTuple):
    """The settings of a run that determine the memory of one step."""

    rows: int  # of a micro-batch
    length: int
    width: int  # bytes of an element of the matrix products: 4, or 2 under autocast
    checkpointing: bool
    accumulating: bool  # gradients of earlier micro-batches stay alive


class MemorySnapshot(NamedTuple):
    """Live bytes at one point in a step, by part."""

    when: str
    weights: int
    gradients: int
    optimizer: int
    activations: int  # saved for the backward pass, and its own working memory
    head: int  # the chunked loss
    other: int  # batch, mask, rotary table, half-precision copies of the weights, gradients waiting to be summed
    total: int


def shape_of(config: Config) -> Shape:
    """The `[model]` table as plain integers."""
    model = config.model
    return Shape(
        model.vocab_size,
        model.hidden_size,
        model.intermediate_size,
        model.num_hidden_layers,
        model.num_attention_heads,
        model.num_key_value_heads,
        model.head_size,
        model.tie_word_embeddings,
    )


def step_of(config: Config) -> Step:
    """The largest micro-batch of a run."""
    training = config.training
    return Step(
        training.batch_size // training.accumulation_steps,
        config.data.sequence_length,
        FP32 if training.dtype == "float32" else 2,
        training.activation_checkpointing,
        training.accumulation_steps > 1,
    )


def count_parameters(shape: Shape) -> ParameterCounts:
    """Exact numbers of parameters; they sum to the total."""
    embedding = shape.vocab * shape.hidden
    attention = shape.layers * 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_size
    mlp = shape.layers * 3 * shape.hidden * shape.ffn
    norms = (2 * shape.layers + 1) * shape.hidden
    head = 0 if shape.tied else embedding
    return ParameterCounts(embedding, attention, mlp, norms, head, embedding + attention + mlp + norms + head)


def parameter_tensors(shape: Shape) -> int:
    """Number of parameter tensors: nine per block, the embedding, the last norm, and the head unless it is tied."""
    return 9 * shape.layers + 2 + (not shape.tied)


def optimizer_bytes(shape: Shape) -> int:
    """AdamW's state: two moments per parameter, and one float32 step count per tensor."""
    return 2 * FP32 * count_parameters(shape).total + FP32 * parameter_tensors(shape)


def block_bytes(shape: Shape, step: Step) -> int:
    """What one block saves for its backward pass.

    In float32 its input and the middle of the residual stream (2 D per token) and one log-sum-exp per head; in the
    products' dtype both normed states (2 D), queries, keys, values and the attention's result (2 Q + 2 K), gate, up and
    their product (3 F).
    """
    heads = 2 * (shape.heads + shape.kv_heads) * shape.head_size
    products = step.width * (2 * shape.hidden + heads + 3 * shape.ffn)
    return step.rows * step.length * (FP32 * (2 * shape.hidden + shape.heads) + products)


def saved_bytes(shape: Shape, step: Step) -> int:
    """What a block saves in the forward pass: everything, or its input alone with activation checkpointing."""
    return step.rows * step.length * FP32 * shape.hidden if step.checkpointing else block_bytes(shape, step)


def head_bytes(shape: Shape, step: Step) -> int:
    """Working memory of the chunked loss, without the float32 gradient of its weight.

    A chunk's logits and their log-softmax are alive together. Autocast adds half-precision errors, and copies of the
    weight and of each chunk's part of its gradient.
    """
    tokens, rows = step.rows * step.length, chunk_rows(shape, step)
    half = step.width < FP32
    errors = rows * (FP32 + step.width * half)
    copy = shape.hidden * step.width * half
    chunk = shape.vocab * (copy + max(2 * FP32 * rows, errors + copy))
    states = shape.hidden * (2 * step.width + FP32)  # all, the counted ones, their gradient
    return chunk + tokens * (states + INT64)


def chunk_rows(shape: Shape, step: Step) -> int:
    """Tokens of one chunk of the loss."""
    return min(step.rows * step.length, max(1, CHUNK_ELEMENTS // shape.vocab))


def rope_and_mask_bytes(shape: Shape, step: Step) -> int:
    """Rotary cosines and sines, and the mask: alive until the end of the first block's backward pass."""
    return step.rows * step.length * (FP32 * shape.head_size + step.width * step.length)


def memory_snapshots(shape: Shape, step: Step) -> tuple[MemorySnapshot, ...]:
    """Memory at the points of a step (from the second step on) where it can peak, in order.

    Gradients are allocated from the head down while the blocks' activations are freed, so the peak is at one end of the
    backward pass. A tied head's gradient waits for the embedding's, and both for their sum.
    """
    count = count_parameters(shape)
    every, head = FP32 * count.total, FP32 * shape.vocab * shape.hidden
    matrices = count.attention + count.mlp
    block = FP32 * (matrices + 2 * shape.layers * shape.hidden) // shape.layers
    casts = step.width * matrices * (step.width < FP32)
    casts_last = casts // shape.layers if step.checkpointing else casts
    layout = rope_and_mask_bytes(shape, step)
    begun = head + FP32 * shape.hidden * (1 + shape.ffn)  # the head, the last norm and one down projection
    waiting = head * shape.tied
    tokens = step.rows * step.length
    residual, inner = FP32 * tokens * shape.hidden, step.width * tokens * shape.ffn
    saved = saved_bytes(shape, step)
    working = block_bytes(shape, step) - saved + 2 * inner + residual  # of SwiGLU's backward pass

    def snapshot(when: str, fresh: int, earlier: int, activations: int, head: int, beside: int) -> MemorySnapshot:
        gradients = every + earlier if step.accumulating else fresh
        added = max(0, gradients - every)  # not yet summed into the gradient it belongs to
        other = 3 * INT64 * tokens + beside + added  # the batch is three int64 per token
        parts = (every, gradients - added, optimizer_bytes(shape), activations, head, other)
        return MemorySnapshot(when, *parts, total=sum(parts))

    first = begun + (shape.layers - 1) * block
    summed = head + 2 * waiting
    return (
        snapshot("loss", head, head, shape.layers * saved + residual, head_bytes(shape, step), casts + layout),
        snapshot("backward, last block", begun, waiting, shape.layers * saved + working, 0, casts_last + layout),
        snapshot("backward, first block", first, waiting, saved + working, 0, casts // shape.layers + layout),
        snapshot("backward, embedding", every + 2 * waiting, summed, 0, 0, 0),
        snapshot("optimizer", every, 0, 0, 0, 0),
    )


def peak_memory(shape: Shape, step: Step) -> MemorySnapshot:
    """The point of a step at which memory peaks."""
    return max(memory_snapshots(shape, step), key=lambda snapshot: snapshot.total)


def largest_micro_batch(snapshots_at: Callable[[Step], tuple[MemorySnapshot, ...]], step: Step, memory: int) -> int:
    """Rows of the largest micro-batch whose peak fits into `memory` bytes; 0 where not even one row fits.

    Everything else in `step` stays: length, dtype, activation checkpointing, gradient accumulation.
    """

    def fits(rows: int) -> bool:
        return max(snapshot.total for snapshot in snapshots_at(step._replace(rows=rows))) <= memory

    above = 1
    while fits(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below
