"""Whole-number arithmetic of the blocks in which NF4 holds a tensor."""

from collections.abc import Iterator

BLOCK, NESTED_BLOCK = 64, 256  # weights that share an absmax in NF4, and absmaxes that share one of their own
SLAB = 1 << 20  # weights that are dequantized at a time: 4 MiB in float32, a whole number of blocks


def block_count(elements: int, size: int) -> int:
    """Blocks of `size` that hold all elements; the last may be shorter."""
    return -(-elements // size)


def whole_blocks(elements: int, size: int) -> int:
    """Elements that lie in blocks which are full."""
    return elements // size * size


def padding(elements: int, size: int) -> int:
    """Elements that the last block lacks."""
    return -elements % size


def slabs(elements: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the stretches of at most `size` that a tensor is worked through in, in order."""
    for begin in range(0, elements, size):
        yield begin, min(begin + size, elements)
