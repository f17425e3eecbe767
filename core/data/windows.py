"""Integer arithmetic of windows, shards, micro-batches and the position in a run."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence


def window_count(tokens: int, length: int) -> int:
    """Number of windows of `length` inputs that predict every token but the first; the last may be shorter."""
    return max(0, -(-(tokens - 1) // length))


def shard_pieces(start: int, stop: int, shard_tokens: int) -> Iterator[tuple[int, int, int]]:
    """(shard, begin, end) of the pieces that make up tokens `start` to `stop`, in order."""
    while start < stop:
        shard, begin = divmod(start, shard_tokens)
        end = min(begin + stop - start, shard_tokens)
        yield shard, begin, end
        start += end - begin


def micro_batch_sizes(rows: int, parts: int) -> list[int]:
    """Rows of each micro-batch: as equal as possible, larger ones first, none empty."""
    parts = min(rows, parts)
    return [rows // parts + (part < rows % parts) for part in range(parts)]


def batches_per_epoch(windows: int, batch_size: int) -> int:
    """Optimizer batches in an epoch; the last may be smaller."""
    return -(-windows // batch_size)


def run_steps(per_epoch: int, epochs: int, max_steps: int) -> int:
    """Optimizer steps of a run: full epochs, cut off at `max_steps` unless that is 0."""
    return min(per_epoch * epochs, max_steps or per_epoch * epochs)


def next_position(epoch: int, batch: int, per_epoch: int) -> tuple[int, int]:
    """The (epoch, batch) after this batch: after an epoch's last batch, the first of the next epoch."""
    return (epoch, batch + 1) if batch + 1 < per_epoch else (epoch + 1, 0)


def steps_done(epoch: int, batch: int, per_epoch: int) -> int:
    """Optimizer steps done once `batch` batches of epoch `epoch` have been used."""
    return epoch * per_epoch + batch


def batch_bounds(batch: int, batch_size: int, windows: int) -> tuple[int, int]:
    """Where a batch begins and ends in its epoch's order of windows; the last may be smaller."""
    return batch * batch_size, min((batch + 1) * batch_size, windows)


def row_pieces(tokens: int, first: int, length: int) -> list[tuple[int, int]]:
    """(begin, end) of a sample's pieces of at most `length`; `first` is where its answer begins.

    One that is too long is split so that `first` is in the first half of a piece, with part of the prompt before it.
    """
    start = 0 if tokens <= length else max(0, first - length // 2)
    return [(begin, min(begin + length, tokens)) for begin in range(start, tokens, length)]


def evenly_spaced(count: int, limit: int) -> list[int]:
    """`limit` of `count` windows, evenly spaced and in order; all where `limit` is 0 or at least `count`."""
    chosen = min(count, limit or count)
    return [index * count // chosen for index in range(chosen)]


def fill_rows(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Pack items of these lengths, each at most `size`, into rows of `size` without splitting any.

    Best fit decreasing (Johnson et al. 1974): at most 11/9 of the minimum number of rows, plus 4.
    """
    rows: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # free space of a row, and its index; sorted
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
