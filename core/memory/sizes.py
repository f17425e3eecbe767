"""Parameters and bytes of full fine-tuning, from the configuration alone: whole-number arithmetic, nothing is built.

Weights, gradients and moments are float32; matrix products run in `training.dtype`. A step's peak is the largest of a
few moments, each the sum of what is alive then; packed rows, and so a mask, are assumed. What kernels allocate inside
themselves, and what an allocator rounds up, is not counted.
Legend: B rows, T positions, D hidden, F ffn, Q width of all queries, K width of all keys, N query heads, V vocab.
"""

from collections.abc import Callable
from typing import NamedTuple

from andon.core.config import Config

FLOAT, INDEX = 4, 8  # bytes of a float32 and of an int64
CHUNK_ELEMENTS = 1 << 23  # logits of one chunk of the loss: 32 MiB in float32


class Shape(NamedTuple):
    """What of a model decides its sizes, as plain integers."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    tied: bool


class Parameters(NamedTuple):
    """Numbers of parameters by part; a tied head has none of its own."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int
    total: int


class Step(NamedTuple):
    """What of a run decides the memory of one step."""

    rows: int  # of a micro-batch
    length: int
    width: int  # bytes of an element of the matrix products: 4, or 2 under autocast
    checkpointing: bool
    accumulating: bool  # gradients of an earlier micro-batch are alive all the while


class Moment(NamedTuple):
    """Bytes alive at one moment of a step, by part."""

    when: str
    weights: int
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass, and its own working memory
    head: int  # the chunked loss
    other: int  # batch, mask, rotary table, half-precision copies of the weights, gradients waiting to be summed
    total: int


def shape_of(config: Config) -> Shape:
    """The model's table as plain integers."""
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
        FLOAT if training.dtype == "float32" else 2,
        training.activation_checkpointing,
        training.accumulation_steps > 1,
    )


def parameters(shape: Shape) -> Parameters:
    """Exact numbers of parameters; they sum to the total."""
    embedding = shape.vocab * shape.hidden
    attention = shape.layers * 2 * shape.hidden * (shape.heads + shape.kv_heads) * shape.head_size
    mlp = shape.layers * 3 * shape.hidden * shape.ffn
    norms = (2 * shape.layers + 1) * shape.hidden
    head = 0 if shape.tied else embedding
    return Parameters(embedding, attention, mlp, norms, head, embedding + attention + mlp + norms + head)


def parameter_tensors(shape: Shape) -> int:
    """How many tensors hold the parameters: nine a block, the embedding, the last norm, the head unless it is tied."""
    return 9 * shape.layers + 2 + (not shape.tied)


def optimizer_bytes(shape: Shape) -> int:
    """AdamW's state: two moments a parameter, and a float32 step count a tensor."""
    return 2 * FLOAT * parameters(shape).total + FLOAT * parameter_tensors(shape)


def block_bytes(shape: Shape, step: Step) -> int:
    """What one block keeps for its backward pass.

    In float32 its input and the middle of the residual stream (2 D a token) and a log-sum-exp a head; in the products'
    dtype both normed states (2 D), queries, keys, values and the attention's result (2 Q + 2 K), gate, up and their
    product (3 F).
    """
    heads = 2 * (shape.heads + shape.kv_heads) * shape.head_size
    products = step.width * (2 * shape.hidden + heads + 3 * shape.ffn)
    return step.rows * step.length * (FLOAT * (2 * shape.hidden + shape.heads) + products)


def kept_bytes(shape: Shape, step: Step) -> int:
    """What a block leaves behind in the forward pass: all it keeps, or its input alone where it is computed again."""
    return step.rows * step.length * FLOAT * shape.hidden if step.checkpointing else block_bytes(shape, step)


def head_bytes(shape: Shape, step: Step) -> int:
    """Working memory of the chunked loss, without the float32 gradient of its weight.

    A chunk's logits and their log-softmax are alive together. Autocast adds half-precision errors, and copies of the
    weight and of each chunk's part of its gradient.
    """
    tokens, rows = step.rows * step.length, chunk_rows(shape, step)
    half = step.width < FLOAT
    errors = rows * (FLOAT + step.width * half)
    copy = shape.hidden * step.width * half
    chunk = shape.vocab * (copy + max(2 * FLOAT * rows, errors + copy))
    states = shape.hidden * (2 * step.width + FLOAT)  # all, the counted ones, their gradient
    return chunk + tokens * (states + INDEX)


def chunk_rows(shape: Shape, step: Step) -> int:
    """Tokens of one chunk of the loss."""
    return min(step.rows * step.length, max(1, CHUNK_ELEMENTS // shape.vocab))


def layout_bytes(shape: Shape, step: Step) -> int:
    """Rotary cosines and sines, and the mask: alive until the first block's backward pass has ended."""
    return step.rows * step.length * (FLOAT * shape.head_size + step.width * step.length)


def moments(shape: Shape, step: Step) -> tuple[Moment, ...]:
    """The moments of a step, from the second one on, at which memory can be at its peak, in their order.

    Gradients come into being from the head down while the blocks' activations go, so a peak lies at one end of the
    backward pass. A tied head's gradient waits for the embedding's, and both for their sum.
    """
    count = parameters(shape)
    every, head = FLOAT * count.total, FLOAT * shape.vocab * shape.hidden
    matrices = count.attention + count.mlp
    block = FLOAT * (matrices + 2 * shape.layers * shape.hidden) // shape.layers
    casts = step.width * matrices * (step.width < FLOAT)
    casts_last = casts // shape.layers if step.checkpointing else casts
    layout = layout_bytes(shape, step)
    begun = head + FLOAT * shape.hidden * (1 + shape.ffn)  # the head, the last norm and one down projection
    waiting = head * shape.tied
    tokens = step.rows * step.length
    residual, inner = FLOAT * tokens * shape.hidden, step.width * tokens * shape.ffn
    kept = kept_bytes(shape, step)
    working = block_bytes(shape, step) - kept + 2 * inner + residual  # of SwiGLU's backward pass

    def moment(when: str, fresh: int, earlier: int, activations: int, head: int, beside: int) -> Moment:
        gradients = every + earlier if step.accumulating else fresh
        added = max(0, gradients - every)  # not yet summed into the gradient it belongs to
        other = 3 * INDEX * tokens + beside + added  # the batch is three int64 a token
        parts = (every, gradients - added, optimizer_bytes(shape), activations, head, other)
        return Moment(when, *parts, total=sum(parts))

    first = begun + (shape.layers - 1) * block
    summed = head + 2 * waiting
    return (
        moment("loss", head, head, shape.layers * kept + residual, head_bytes(shape, step), casts + layout),
        moment("backward, last block", begun, waiting, shape.layers * kept + working, 0, casts_last + layout),
        moment("backward, first block", first, waiting, kept + working, 0, casts // shape.layers + layout),
        moment("backward, embedding", every + 2 * waiting, summed, 0, 0, 0),
        moment("optimizer", every, 0, 0, 0, 0),
    )


def peak(shape: Shape, step: Step) -> Moment:
    """The moment of a step at which most bytes are alive."""
    return max(moments(shape, step), key=lambda moment: moment.total)


def largest_batch(moments_at: Callable[[Step], tuple[Moment, ...]], step: Step, memory: int) -> int:
    """Rows of the largest micro-batch whose peak fits into `memory` bytes; 0 where not even one row does.

    All else of `step` stays: length, dtype, activation checkpointing, whether gradients accumulate.
    """

    def fits(rows: int) -> bool:
        return max(moment.total for moment in moments_at(step._replace(rows=rows))) <= memory

    above = 1
    while fits(above):
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below
