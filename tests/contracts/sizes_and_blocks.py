"""Contracts of parameter counts, memory planning, head and group shapes, and blocks of quantization."""

from andon.core.adapters import nf4_blocks
from andon.core.files import headers
from andon.core.memory import adapter_sizes, sizes
from andon.gates.measures.symbolic import Contract


def model(hidden: int, layers: int, kv_heads: int, group: int, tied: bool) -> sizes.Shape:
    """A small model of the family; query heads are a multiple of key heads."""
    return sizes.Shape(32, hidden, 3, layers, kv_heads * group, kv_heads, 2, tied)


def parts_sum_to_the_total(hidden: int, layers: int, tied: bool) -> None:
    """No parameter is counted twice or left out."""
    assert 1 <= hidden <= 1 << 16
    assert 1 <= layers <= 4
    count = sizes.count_parameters(model(hidden, layers, 1, 2, tied))
    assert count.total == count.embedding + count.attention + count.mlp + count.norms + count.head


def a_tied_head_saves_one_embedding(vocab: int, layers: int) -> None:
    """The one difference between a tied model and another."""
    assert 2 <= vocab <= 1 << 20
    assert 1 <= layers <= 128
    free, tied = (sizes.count_parameters(sizes.Shape(vocab, 64, 128, layers, 4, 2, 16, tie)) for tie in (False, True))
    assert free.total - tied.total == free.embedding == vocab * 64


def attention_is_its_four_matrices(layers: int, group: int) -> None:
    """Queries and the way out have all heads, keys and values those of their groups alone."""
    assert 1 <= layers <= 1 << 10
    assert 1 <= group <= 8
    shape = sizes.Shape(32, 64, 8, layers, 2 * group, 2, 16, tied=False)
    four = 64 * (2 * group * 16) + 2 * 64 * (2 * 16) + (2 * group * 16) * 64
    assert sizes.count_parameters(shape).attention == layers * four


def projections_are_the_counted_matrices(ffn: int, group: int) -> None:
    """What adapters and quantization go by has the sides that the count has."""
    assert 1 <= ffn <= 1 << 16
    assert 1 <= group <= 4
    shape = sizes.Shape(32, 16, ffn, 1, group, 1, 4, tied=False)
    count = sizes.count_parameters(shape)
    matrices = sum(inputs * outputs for inputs, outputs in adapter_sizes.projections(shape).values())
    assert matrices == count.attention + count.mlp


def each_layer_has_nine_tensors(layers: int, tied: bool) -> None:
    """And the model an embedding, a norm, and a head unless it is tied."""
    assert 1 <= layers <= 1 << 20
    tensors = sizes.parameter_tensors(sizes.Shape(32, 4, 3, layers, 2, 1, 2, tied))
    assert tensors == 9 * layers + (2 if tied else 3)


def the_optimizer_holds_two_moments(vocab: int, layers: int) -> None:
    """Eight bytes per parameter, and four per tensor for its step."""
    assert 2 <= vocab <= 1 << 20
    assert 1 <= layers <= 64
    shape = sizes.Shape(vocab, 8, 16, layers, 2, 1, 4, tied=False)
    assert sizes.optimizer_bytes(shape) == 8 * sizes.count_parameters(shape).total + 4 * (9 * layers + 3)


def checkpointing_keeps_less(rows: int, length: int) -> None:
    """A block's input alone, and that is one of the things it keeps otherwise."""
    assert 1 <= rows <= 1 << 20
    assert 1 <= length <= 8
    shape = sizes.Shape(32, 8, 16, 2, 2, 1, 4, tied=False)
    step = sizes.Step(rows, length, 4, checkpointing=True, accumulating=False)
    assert 0 < sizes.saved_bytes(shape, step) == rows * length * 32 < sizes.block_bytes(shape, step)


def a_block_grows_with_its_rows(rows: int) -> None:
    """Activations are so much a token, with nothing beside."""
    assert 1 <= rows <= 1 << 30
    shape = sizes.Shape(32, 8, 16, 2, 2, 1, 4, tied=False)
    step = sizes.Step(rows, 16, 4, checkpointing=False, accumulating=False)
    one = sizes.block_bytes(shape, step._replace(rows=1))
    assert sizes.block_bytes(shape, step) == rows * one
    assert one == 16 * (4 * (2 * 8 + 2) + 4 * (2 * 8 + 2 * 3 * 4 + 3 * 16))


def a_chunk_of_the_loss_fits(vocab: int, rows: int) -> None:
    """A chunk has a row at least, no more than there are, and no more logits than allowed unless one row has."""
    assert 2 <= vocab <= 1 << 24
    assert 1 <= rows <= 1 << 20
    step = sizes.Step(rows, 1, 4, checkpointing=False, accumulating=False)
    chunk = sizes.chunk_rows(sizes.Shape(vocab, 8, 16, 2, 2, 1, 4, tied=False), step)
    assert 1 <= chunk <= rows
    assert chunk == 1 or chunk * vocab <= sizes.CHUNK_ELEMENTS


def a_moment_is_the_sum_of_its_parts(rows: int, accumulating: bool, checkpointing: bool) -> None:
    """What is printed by part is what is planned with."""
    assert 1 <= rows <= 1 << 20
    shape = sizes.Shape(32, 8, 16, 3, 2, 1, 4, tied=True)
    step = sizes.Step(rows, 16, 4, checkpointing, accumulating)
    for moment in sizes.memory_snapshots(shape, step):
        assert moment.total == sum(moment[1:-1])
        assert min(moment[1:-1]) >= 0


def the_largest_batch_fits_and_one_more_does_not(memory: int) -> None:
    """The search ends at the edge."""
    assert 0 <= memory <= 200
    step = sizes.Step(1, 16, 4, checkpointing=False, accumulating=False)

    def moments_at(at: sizes.Step) -> tuple[sizes.MemorySnapshot, ...]:
        return (sizes.MemorySnapshot("a step", 20, 0, 0, 0, 0, 0, total=20 + 30 * at.rows),)

    rows = sizes.largest_micro_batch(moments_at, step, memory)
    assert rows == max(0, (memory - 20) // 30)


def codes_and_absmaxes_cover_a_matrix(elements: int) -> None:
    """Half a byte a weight, a float32 a block of 64, each rounded up."""
    assert 1 <= elements <= 1 << 40
    nbytes = adapter_sizes.nf4_bytes(elements, double=False)
    assert 0 <= 2 * (nbytes - 4 * ((elements + 63) // 64)) - elements <= 1


def double_quantization_adds_its_own_blocks(elements: int) -> None:
    """A byte a block, a float32 for 256 of them, and one offset."""
    assert 1 <= elements <= 1 << 40
    blocks = (elements + 63) // 64
    nbytes = adapter_sizes.nf4_bytes(elements, double=True)
    assert nbytes == (elements + 1) // 2 + blocks + 4 * ((blocks + 255) // 256) + 4


def blocks_hold_every_element(elements: int, power: int) -> None:
    """The last is the only one that may be short, and none is empty."""
    assert 1 <= elements <= 1 << 40
    assert 0 <= power <= 12
    size = 1 << power
    count = nf4_blocks.block_count(elements, size)
    assert (count - 1) * size < elements <= count * size


def padding_completes_the_last_block(elements: int) -> None:
    """Less than a block, and whole blocks with it."""
    assert 1 <= elements <= 1 << 40
    lacking = nf4_blocks.padding(elements, 256)
    assert 0 <= lacking < 256
    assert (elements + lacking) == 256 * nf4_blocks.block_count(elements, 256)


def whole_blocks_leave_less_than_one(elements: int) -> None:
    """The rest is shorter than a block, and what is whole is a multiple of one."""
    assert 0 <= elements <= 1 << 40
    whole = nf4_blocks.whole_blocks(elements, 64)
    assert 0 <= elements - whole < 64
    assert whole % 64 == 0


def slabs_tile_a_tensor(elements: int) -> None:
    """No weight is left out or done twice, none beyond the end."""
    assert 1 <= elements <= 64
    at = 0
    for begin, end in nf4_blocks.slabs(elements, 16):
        assert begin == at < end <= begin + 16
        at = end
    assert at == elements


def an_adapter_has_rank_times_both_sides(rank: int, ffn: int) -> None:
    """r (inputs + outputs), a layer each."""
    assert 1 <= rank <= 1 << 10
    assert 1 <= ffn <= 64
    shape = sizes.Shape(32, 16, ffn, 2, 2, 1, 8, tied=False)
    ranks = {"self_attn.q_proj": rank, "mlp.down_proj": rank}
    tuning = adapter_sizes.AdapterShape((ranks, {}), dropout=False, quantized=False, double=False)
    assert adapter_sizes.trainable_parameters(shape, tuning) == rank * (16 + 16) + rank * (ffn + 16)


def tensors_that_tile_their_file_are_believed(first: int, second: int) -> None:
    """Exactly the bytes that follow the header."""
    assert 0 <= first <= 1 << 40
    assert 0 <= second <= 1 << 40
    entries = {
        "b": headers.TensorEntry("U8", (second,), first, first + second),
        "a": headers.TensorEntry("U8", (first,), 0, first),
    }
    headers.check_tiling(entries, first + second)


def an_overlap_or_gap_is_refused(end: int, start: int, data: int) -> None:
    """Two tensors never share bytes, and no byte hides between or behind them."""
    assert 1 <= end <= 4
    assert 0 <= start <= 6
    assert 0 <= data <= 16
    entries = {"a": headers.TensorEntry("U8", (end,), 0, end), "b": headers.TensorEntry("U8", (8,), start, start + 8)}
    try:
        headers.check_tiling(entries, data)
    except headers.HeaderError:
        return
    assert start == end
    assert data == end + 8


CONTRACTS = (
    Contract(
        parts_sum_to_the_total,
        sizes,
        "embedding + attention + mlp + norms + head)",
        "embedding + attention + mlp + norms + embedding)",
    ),
    Contract(a_tied_head_saves_one_embedding, sizes, "head = 0 if shape.tied else embedding", "head = embedding"),
    Contract(
        attention_is_its_four_matrices,
        sizes,
        "shape.hidden * (shape.heads + shape.kv_heads) * shape.head_size\n    mlp",
        "shape.hidden * 2 * shape.heads * shape.head_size\n    mlp",
    ),
    Contract(
        projections_are_the_counted_matrices,
        adapter_sizes,
        "(hidden, shape.ffn), (hidden, shape.ffn), (shape.ffn, hidden)",
        "(hidden, shape.ffn), (shape.ffn, hidden)",
    ),
    Contract(
        each_layer_has_nine_tensors,
        sizes,
        "9 * shape.layers + 2 + (not shape.tied)",
        "9 * shape.layers + 2 + shape.tied",
    ),
    Contract(the_optimizer_holds_two_moments, sizes, "FP32 * parameter_tensors(shape)", "FP32"),
    Contract(
        checkpointing_keeps_less,
        sizes,
        "FP32 * shape.hidden if step.checkpointing",
        "FP32 * shape.ffn if step.checkpointing",
    ),
    Contract(
        a_block_grows_with_its_rows,
        sizes,
        "FP32 * (2 * shape.hidden + shape.heads)",
        "FP32 * (shape.hidden + shape.heads)",
    ),
    Contract(a_chunk_of_the_loss_fits, sizes, "max(1, CHUNK_ELEMENTS // shape.vocab)", "CHUNK_ELEMENTS // shape.vocab"),
    Contract(
        a_moment_is_the_sum_of_its_parts,
        sizes,
        "added = max(0, gradients - every)",
        "added = gradients - every",
    ),
    Contract(
        the_largest_batch_fits_and_one_more_does_not, sizes, "while above - below > 1:", "while above - below > 2:"
    ),
    Contract(
        codes_and_absmaxes_cover_a_matrix,
        adapter_sizes,
        "block_count(elements, 2), block_count",
        "elements // 2, block_count",
    ),
    Contract(
        double_quantization_adds_its_own_blocks,
        adapter_sizes,
        "block_count(blocks, NESTED_BLOCK)",
        "(blocks // NESTED_BLOCK)",
    ),
    Contract(blocks_hold_every_element, nf4_blocks, "return -(-elements // size)", "return elements // size + 1"),
    Contract(padding_completes_the_last_block, nf4_blocks, "return -elements % size", "return size - elements % size"),
    Contract(whole_blocks_leave_less_than_one, nf4_blocks, "elements // size * size", "elements // size * size + size"),
    Contract(slabs_tile_a_tensor, nf4_blocks, "min(begin + size, elements)", "begin + size"),
    Contract(an_adapter_has_rank_times_both_sides, adapter_sizes, "rank * sum(sides[part])", "rank * max(sides[part])"),
    Contract(
        tensors_that_tile_their_file_are_believed,
        headers,
        "item: (item[1].start, item[1].end)",
        "item: (-item[1].start, item[1].end)",
    ),
    Contract(an_overlap_or_gap_is_refused, headers, "if entry.start != end:", "if entry.start > end:"),
)
