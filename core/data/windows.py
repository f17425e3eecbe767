"""Whole-number arithmetic of windows, shards, micro-batches and the position in a run."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence


def window_count(tokens: int, length: int) -> int:
    """How many windows of `length` inputs it takes to predict every token but the first; the last may be shorter."""
    return max(0, -(-(tokens - 1) // length))


def shard_pieces(start: int, stop: int, shard_tokens: int) -> Iterator[tuple[int, int, int]]:
    """(shard, begin, end) of the pieces that make up tokens `start` to `stop`, in order."""
    while start < stop:
        shard, begin = divmod(start, shard_tokens)
        end = min(begin + stop - start, shard_tokens)
        yield shard, begin, end
        start += end - begin


def micro_batch_sizes(rows: int, parts: int) -> list[int]:
    """Rows of each micro-batch: as even as can be, larger ones first, none empty."""
    parts = min(rows, parts)
    return [rows // parts + (part < rows % parts) for part in range(parts)]


def batches_per_epoch(windows: int, batch_size: int) -> int:
    """Optimizer batches in an epoch; the last may be smaller."""
    return -(-windows // batch_size)


def run_steps(per_epoch: int, epochs: int, max_steps: int) -> int:
    """Optimizer steps of a run: whole epochs, cut at `max_steps` unless that is 0."""
    return min(per_epoch * epochs, max_steps or per_epoch * epochs)


def following(epoch: int, batch: int, per_epoch: int) -> tuple[int, int]:
    """The (epoch, batch) that follows: an epoch that is used up gives the next one's first batch."""
    return (epoch, batch + 1) if batch + 1 < per_epoch else (epoch + 1, 0)


def steps_done(epoch: int, batch: int, per_epoch: int) -> int:
    """Optimizer steps behind the state in which `batch` batches of epoch `epoch` are used."""
    return epoch * per_epoch + batch


def batch_bounds(batch: int, batch_size: int, windows: int) -> tuple[int, int]:
    """Where a batch begins and ends in its epoch's order of windows; the last may be smaller."""
    return batch * batch_size, min((batch + 1) * batch_size, windows)


def row_pieces(tokens: int, first: int, length: int) -> list[tuple[int, int]]:
    """Where a sample's pieces of at most `length` begin and end; `first` is where its answer does.

    One that is too long is cut so that `first` lies in a piece's first half, with a prompt before it.
    """
    start = 0 if tokens <= length else max(0, first - length // 2)
    return [(begin, min(begin + length, tokens)) for begin in range(start, tokens, length)]


def spread(count: int, limit: int) -> list[int]:
    """`limit` of `count` windows, evenly spread and in order; all of them where `limit` is 0 or larger."""
    chosen = min(count, limit or count)
    return [index * count // chosen for index in range(chosen)]


def fill_rows(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which items share a row of `size`: each length, none above `size`, goes once and whole where it fits best.

    Best fit in falling order (Johnson et al. 1974): at most 11/9 of the fewest rows possible, and 4 more.
    """
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # what is left of a row, and its number; in order
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        place = bisect_left(spaces, (lengths[item], -1))
        if place == len(spaces):
            rows.append([])
            left, row = size, len(rows) - 1
        else:
            left, row = spaces.pop(place)
        rows[row].append(item)
        insort(spaces, (left - lengths[item], row))
    return rows
