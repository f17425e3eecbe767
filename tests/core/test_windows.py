"""Whole-number arithmetic of windows, shards, micro-batches and positions."""

import pytest

from core.windows import (
    batches_per_epoch,
    following,
    micro_batch_sizes,
    run_steps,
    shard_pieces,
    spread,
    window_count,
)

pytestmark = pytest.mark.tier1


@pytest.mark.parametrize(
    ("tokens", "length", "count"), [(0, 4, 0), (1, 4, 0), (2, 4, 1), (5, 4, 1), (6, 4, 2), (9, 4, 2), (10, 4, 3)]
)
def test_windows_cover_every_label(tokens: int, length: int, count: int) -> None:
    """Behaviour: n tokens have n - 1 labels, and a window holds `length` of them; the last may hold fewer."""
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
def test_a_range_is_divided_at_shard_ends(start: int, stop: int, pieces: list[tuple[int, int, int]]) -> None:
    """Behaviour: pieces come in order and meet exactly at multiples of the shard's size (here 10)."""
    assert pieces == list(shard_pieces(start, stop, 10))


@pytest.mark.parametrize(
    ("rows", "parts", "sizes"), [(8, 4, [2, 2, 2, 2]), (7, 4, [2, 2, 2, 1]), (2, 4, [1, 1]), (5, 1, [5]), (0, 4, [])]
)
def test_micro_batches_are_even_and_never_empty(rows: int, parts: int, sizes: list[int]) -> None:
    """Behaviour: sizes differ by one at most and add up to the rows."""
    assert sizes == micro_batch_sizes(rows, parts)


@pytest.mark.parametrize(("windows", "batch_size", "count"), [(0, 4, 0), (1, 4, 1), (8, 4, 2), (9, 4, 3)])
def test_the_last_smaller_batch_counts(windows: int, batch_size: int, count: int) -> None:
    """Behaviour: an epoch is rounded up to whole batches."""
    assert count == batches_per_epoch(windows, batch_size)


@pytest.mark.parametrize(
    ("per_epoch", "epochs", "max_steps", "steps"), [(5, 3, 0, 15), (5, 3, 7, 7), (5, 3, 15, 15), (5, 3, 99, 15)]
)
def test_a_run_ends_at_its_epochs_or_its_steps(per_epoch: int, epochs: int, max_steps: int, steps: int) -> None:
    """Behaviour: whichever comes first; zero steps mean no limit."""
    assert steps == run_steps(per_epoch, epochs, max_steps)


def test_a_position_moves_on_through_batches_and_epochs() -> None:
    """Behaviour: an epoch that is used up is the next one's beginning, never a batch beyond its last."""
    seen, position = [], (0, 0)
    for _ in range(5):
        seen.append(position)
        position = following(*position, per_epoch=2)
    assert [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)] == seen


@pytest.mark.parametrize(
    ("count", "limit", "chosen"),
    [(4, 0, [0, 1, 2, 3]), (4, 9, [0, 1, 2, 3]), (10, 3, [0, 3, 6]), (0, 3, []), (1, 1, [0])],
)
def test_a_limit_is_spread_over_all(count: int, limit: int, chosen: list[int]) -> None:
    """Behaviour: in order, none twice, from the whole length; without a limit all of them."""
    assert chosen == spread(count, limit)
