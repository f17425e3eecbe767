"""Integer arithmetic of the blocks in which NF4 stores a tensor."""

from collections.abc import Iterator

BLOCK, NESTED_BLOCK = 64, 256  # weights that share an absmax in NF4, and absmaxes that share one of their own
SLAB = 1 << 20  # weights dequantized at a time: 4 MiB in float32, a multiple of a block


def block_count(elements: int, size: int) -> int:
    """Number of blocks of `size` for all elements; the last may be shorter."""
    return -(-elements // size)


def whole_blocks(elements: int, size: int) -> int:
    """Number of elements in full blocks."""
    return elements // size * size


def padding(elements: int, size: int) -> int:
    """Number of elements missing from the last block."""
    return -elements % size


def slabs(elements: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the slabs of at most `size` in which a tensor is processed, in order."""
    for begin in range(0, elements, size):
        yield begin, min(begin + size, elements)
