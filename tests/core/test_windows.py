"""Whole-number arithmetic of windows, shards, micro-batches and positions."""

import pytest

from andon.core.data.windows import (
    batch_bounds,
    batches_per_epoch,
    evenly_spaced,
    fill_rows,
    micro_batch_sizes,
    next_position,
    row_pieces,
    run_steps,
    shard_pieces,
    steps_done,
    window_count,
)

pytestmark = pytest.mark.tier1


@pytest.mark.parametrize(
    ("tokens", "length", "count"), [(0, 4, 0), (1, 4, 0), (2, 4, 1), (5, 4, 1), (6, 4, 2), (9, 4, 2), (10, 4, 3)]
)
def test_windows_cover_every_label(tokens: int, length: int, count: int) -> None:
    """Behavior: n tokens have n - 1 labels, and a window holds `length` of them; the last may hold fewer."""
    assert count == window_count(tokens, length)


@pytest.mark.parametrize(
    ("start", "stop", "pieces"),
    [
        (0, 0, []),
        (0, 10, [(0, 0, 10)]),
        (3, 12, [(0, 3, 10), (1, 0, 2)]),
        (10, 31, [(1, 0, 10), (2, 0, 10), (3, 0, 1)]),
    ],
)
def test_a_range_is_split_at_shard_ends(start: int, stop: int, pieces: list[tuple[int, int, int]]) -> None:
    """Behavior: pieces come in order and meet exactly at multiples of the shard's size (here 10)."""
    assert pieces == list(shard_pieces(start, stop, 10))


@pytest.mark.parametrize(
    ("rows", "parts", "sizes"), [(8, 4, [2, 2, 2, 2]), (7, 4, [2, 2, 2, 1]), (2, 4, [1, 1]), (5, 1, [5]), (0, 4, [])]
)
def test_micro_batches_are_even_and_never_empty(rows: int, parts: int, sizes: list[int]) -> None:
    """Behavior: sizes differ by one at most and add up to the rows."""
    assert sizes == micro_batch_sizes(rows, parts)


@pytest.mark.parametrize(("windows", "batch_size", "count"), [(0, 4, 0), (1, 4, 1), (8, 4, 2), (9, 4, 3)])
def test_the_last_smaller_batch_counts(windows: int, batch_size: int, count: int) -> None:
    """Behavior: an epoch is rounded up to whole batches."""
    assert count == batches_per_epoch(windows, batch_size)


@pytest.mark.parametrize(
    ("per_epoch", "epochs", "max_steps", "steps"), [(5, 3, 0, 15), (5, 3, 7, 7), (5, 3, 15, 15), (5, 3, 99, 15)]
)
def test_a_run_ends_at_its_epochs_or_its_steps(per_epoch: int, epochs: int, max_steps: int, steps: int) -> None:
    """Behavior: whichever comes first; zero steps mean no limit."""
    assert steps == run_steps(per_epoch, epochs, max_steps)


def test_a_position_moves_on_through_batches_and_epochs() -> None:
    """Behavior: an epoch that is used up is the next one's beginning, never a batch beyond its last."""
    seen, position = [], (0, 0)
    for _ in range(5):
        seen.append(position)
        position = next_position(*position, per_epoch=2)
    assert [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)] == seen


@pytest.mark.parametrize(
    ("count", "limit", "chosen"),
    [(4, 0, [0, 1, 2, 3]), (4, 9, [0, 1, 2, 3]), (10, 3, [0, 3, 6]), (0, 3, []), (1, 1, [0])],
)
def test_a_limit_is_spread_over_all(count: int, limit: int, chosen: list[int]) -> None:
    """Behavior: in order, none twice, from the whole length; without a limit all of them."""
    assert chosen == evenly_spaced(count, limit)


@pytest.mark.parametrize(("epoch", "batch", "steps"), [(0, 0, 0), (0, 3, 3), (1, 0, 5), (2, 4, 14)])
def test_a_position_knows_the_steps_behind_it(epoch: int, batch: int, steps: int) -> None:
    """Reference: by hand, with 5 batches an epoch."""
    assert steps == steps_done(epoch, batch, per_epoch=5)


@pytest.mark.parametrize(
    ("batch", "windows", "bounds"), [(0, 9, (0, 4)), (1, 9, (4, 8)), (2, 9, (8, 9)), (1, 8, (4, 8))]
)
def test_batches_meet_and_the_last_ends_with_the_windows(batch: int, windows: int, bounds: tuple[int, int]) -> None:
    """Reference: by hand, with 4 windows a batch."""
    assert bounds == batch_bounds(batch, 4, windows)


@pytest.mark.parametrize(
    ("tokens", "first", "pieces"),
    [
        (1, 0, [(0, 1)]),
        (6, 5, [(0, 6)]),  # it fits, wherever its answer begins
        (7, 2, [(0, 6), (6, 7)]),
        (7, 4, [(1, 7)]),
        (14, 5, [(2, 8), (8, 14)]),
        (15, 5, [(2, 8), (8, 14), (14, 15)]),
    ],
)
def test_a_long_sample_is_cut_three_tokens_before_its_answer(
    tokens: int, first: int, pieces: list[tuple[int, int]]
) -> None:
    """Reference: by hand, with pieces of 6: half of one is prompt, if there is so much; nothing after it is lost."""
    assert pieces == row_pieces(tokens, first, 6)


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([], []),
        ([10], [[0]]),
        ([5, 5, 5], [[0, 1], [2]]),
        ([6, 7, 3], [[1, 2], [0]]),  # 3 fills what 7 leaves, and not the 4 beside 6
        ([6, 6, 4], [[0, 2], [1]]),  # of two rows that fit alike the first
        ([2, 9, 4, 3, 1], [[1, 4], [2, 3, 0]]),
    ],
)
def test_rows_are_filled_longest_first_where_it_fits_best(lengths: list[int], rows: list[list[int]]) -> None:
    """Reference: by hand, with rows of 10."""
    assert rows == fill_rows(lengths, 10)
