"""Contracts of windows, shards, micro-batches, rows and the position in a run."""

from itertools import pairwise

from andon.core.data import windows
from andon.core.files import folders
from andon.core.training import schedule
from andon.gates.measures.symbolic import Contract


def windows_predict_every_token_but_the_first(tokens: int, length: int) -> None:
    """As many windows as are needed, and none that predicts nothing."""
    assert 1 <= tokens <= 1 << 40
    assert 1 <= length <= 64
    count = windows.window_count(tokens, length)
    assert (count - 1) * length < tokens - 1 <= count * length or count == 0 == tokens - 1


def an_empty_stream_has_no_window(length: int) -> None:
    """Nothing to predict, at no length a negative count."""
    assert 1 <= length <= 1 << 20
    assert windows.window_count(0, length) == 0 == windows.window_count(1, length)


def pieces_tile_what_was_asked_for(start: int, size: int, shard_tokens: int) -> None:
    """Each piece begins where the last one ended, and the last ends where it must."""
    assert 0 <= start <= 64
    assert 1 <= size <= 6
    assert 2 <= shard_tokens <= 4
    at = start
    for shard, begin, end in windows.shard_pieces(start, start + size, shard_tokens):
        assert shard * shard_tokens + begin == at
        at += end - begin
    assert at == start + size


def pieces_stay_within_their_shard(start: int, size: int) -> None:
    """No piece reaches beyond its shard's end, none is empty."""
    assert 0 <= start <= 1 << 30
    assert 1 <= size <= 24
    for _, begin, end in windows.shard_pieces(start, start + size, 8):
        assert 0 <= begin < end <= 8


def micro_batches_hold_every_row_once(rows: int, parts: int) -> None:
    """They add up, and none is empty."""
    assert 1 <= rows <= 100_000
    assert 1 <= parts <= 5
    sizes = windows.micro_batch_sizes(rows, parts)
    assert sum(sizes) == rows
    assert min(sizes) > 0
    assert len(sizes) <= parts


def micro_batches_are_even(rows: int, parts: int) -> None:
    """The largest comes first, and is one row larger at most."""
    assert 1 <= rows <= 100_000
    assert 1 <= parts <= 5
    sizes = windows.micro_batch_sizes(rows, parts)
    assert sizes[0] - sizes[-1] in (0, 1)


def batches_hold_every_window(count: int, batch_size: int) -> None:
    """No window is left out, and no batch is empty."""
    assert 1 <= count <= 1 << 40
    assert 1 <= batch_size <= 64
    batches = windows.batches_per_epoch(count, batch_size)
    assert (batches - 1) * batch_size < count <= batches * batch_size


def a_batch_is_full_but_for_the_last(batch: int, batch_size: int, count: int) -> None:
    """Batches follow each other without gap, and end with the windows."""
    assert 1 <= batch_size <= 32
    assert 0 <= batch <= 1 << 30
    assert batch * batch_size < count <= 1 << 36
    begin, end = windows.batch_bounds(batch, batch_size, count)
    assert begin < end <= count
    assert end == windows.batch_bounds(batch + 1, batch_size, count)[0] or end == count


def a_run_ends_at_its_first_limit(per_epoch: int, epochs: int, max_steps: int) -> None:
    """Whole epochs, unless max_steps is less; 0 means no limit."""
    assert 1 <= per_epoch <= 1 << 30
    assert 1 <= epochs <= 16
    assert 0 <= max_steps <= 1 << 40
    steps = windows.run_steps(per_epoch, epochs, max_steps)
    assert steps == per_epoch * epochs or (steps == max_steps and 0 < max_steps < per_epoch * epochs)
    assert max_steps == 0 or steps <= max_steps


def the_next_position_is_one_step_later(epoch: int, batch: int, per_epoch: int) -> None:
    """A run that resumes from it repeats no batch and leaves none out."""
    assert 1 <= per_epoch <= 64
    assert 0 <= batch < per_epoch
    assert 0 <= epoch <= 1 << 30
    after = windows.next_position(epoch, batch, per_epoch)
    assert windows.steps_done(*after, per_epoch) == windows.steps_done(epoch, batch, per_epoch) + 1
    assert 0 <= after[1] < per_epoch


def a_step_knows_its_epoch_and_batch(epoch: int, batch: int, per_epoch: int) -> None:
    """The state is found again from the number of steps done."""
    assert 1 <= per_epoch <= 64
    assert 0 <= batch < per_epoch
    assert 0 <= epoch <= 1 << 30
    assert divmod(windows.steps_done(epoch, batch, per_epoch), per_epoch) == (epoch, batch)


def even_spacing_takes_as_many_as_the_limit(count: int, limit: int) -> None:
    """All where there means no limit or the limit is above."""
    assert 1 <= count <= 5
    assert 0 <= limit <= 6
    chosen = windows.evenly_spaced(count, limit)
    assert len(chosen) == (min(count, limit) if limit else count)


def even_spacing_is_in_order_and_in_range(count: int, limit: int) -> None:
    """No window twice, none that is not there."""
    assert 1 <= count <= 1 << 20
    assert 1 <= limit <= 4
    chosen = windows.evenly_spaced(count, limit)
    assert chosen[0] == 0
    assert chosen[-1] < count
    assert all(one < other for one, other in pairwise(chosen))


def rows_hold_each_item_once(one: int, two: int, three: int) -> None:
    """No sample is lost, none comes twice."""
    assert 1 <= one <= 10
    assert 1 <= two <= 10
    assert 1 <= three <= 10
    rows = windows.fill_rows([one, two, three], 10)
    assert sorted(item for row in rows for item in row) == [0, 1, 2]


def rows_are_never_too_full(one: int, two: int, three: int) -> None:
    """No sample is split if it fits into a row."""
    assert 1 <= one <= 10
    assert 1 <= two <= 10
    assert 1 <= three <= 10
    lengths = [one, two, three]
    assert all(sum(lengths[item] for item in row) <= 10 for row in windows.fill_rows(lengths, 10))


def a_sample_is_cut_without_loss_of_its_answer(tokens: int, first: int) -> None:
    """The pieces follow each other to the sample's end, each within a row, and the answer begins in one of them."""
    assert 2 <= tokens <= 40
    assert 0 <= first < tokens
    pieces = windows.row_pieces(tokens, first, 8)
    assert pieces[0][0] <= first
    assert pieces[-1][1] == tokens
    assert all(0 < end - begin <= 8 for begin, end in pieces)
    assert all(one[1] == other[0] for one, other in pairwise(pieces))


def a_cut_answer_has_a_prompt_before_it(tokens: int, first: int) -> None:
    """Of a sample that is too long, the answer begins in the first piece, in its first half."""
    assert 9 <= tokens <= 32
    assert 1 <= first < tokens
    begin, _ = windows.row_pieces(tokens, first, 8)[0]
    assert min(first, 4) == first - begin


def the_decay_is_within_its_length(step: int, steps: int, warmup: int) -> None:
    """The share of it that is done is never above one, below zero, or divided by zero."""
    assert 0 <= warmup <= 1 << 30
    assert warmup <= step <= 1 << 31
    assert 1 <= steps <= 1 << 30
    done, decay = schedule.decay_progress(step, steps, warmup)
    assert 0 <= done <= decay
    assert decay > 0


def the_last_step_is_at_the_end_of_the_decay(steps: int, warmup: int) -> None:
    """The rate arrives where it must, and the warm-up's end is the peak."""
    assert 0 <= warmup <= 1 << 20
    assert warmup + 2 <= steps <= 1 << 30
    done, decay = schedule.decay_progress(steps - 1, steps, warmup)
    assert done == decay
    assert schedule.decay_progress(warmup, steps, warmup)[0] == 0


def rotation_keeps_the_latest(keep_last: int) -> None:
    """What is deleted is older than what is kept, and as many stay as configured."""
    assert 1 <= keep_last <= 1 << 20
    gone = folders.steps_to_delete({10: None, 20: 1.0, 30: None, 40: None}, keep_last, keep_best=False)
    assert gone == [10, 20, 30, 40][: max(0, 4 - keep_last)]


def rotation_keeps_the_best(first: int, second: int, third: int, keep_last: int) -> None:
    """The lowest metric survives every rotation, the newest of equals, beside the newest."""
    assert 0 <= first <= 1 << 20
    assert 0 <= second <= 1 << 20
    assert 0 <= third <= 1 << 20
    assert 1 <= keep_last <= 3
    metrics = {10: first, 20: second, 30: third}
    left = metrics.keys() - set(folders.steps_to_delete(metrics, keep_last, keep_best=True))
    assert min(first, second, third) == min(metrics[step] for step in left)
    assert keep_last <= len(left) <= keep_last + 1


def the_best_of_equals_is_the_latest(first: int, second: int) -> None:
    """What was not measured is never the best."""
    assert 0 <= first <= 1 << 20
    assert 0 <= second <= 1 << 20
    best = folders.best_step({10: first, 20: None, 30: second})
    assert best == (30 if second <= first else 10)


CONTRACTS = (
    Contract(
        windows_predict_every_token_but_the_first, windows, "-(-(tokens - 1) // length)", "(tokens - 1) // length"
    ),
    Contract(an_empty_stream_has_no_window, windows, "max(0, -(-(tokens - 1) // length))", "-(-tokens // length)"),
    Contract(
        pieces_tile_what_was_asked_for,
        windows,
        "shard, begin = divmod(start, shard_tokens)",
        "shard, begin = start // shard_tokens, 0",
    ),
    Contract(
        pieces_stay_within_their_shard, windows, "end = min(begin + stop - start, shard_tokens)", "end = begin + 8"
    ),
    Contract(micro_batches_hold_every_row_once, windows, "(part < rows % parts)", "(part <= rows % parts)"),
    Contract(
        micro_batches_are_even,
        windows,
        "[rows // parts + (part < rows % parts) for part in range(parts)]",
        "[rows // parts + rows % parts * (part == 0) for part in range(parts)]",
    ),
    Contract(batches_hold_every_window, windows, "return -(-windows // batch_size)", "return windows // batch_size"),
    Contract(
        a_batch_is_full_but_for_the_last, windows, "min((batch + 1) * batch_size, windows)", "(batch + 1) * batch_size"
    ),
    Contract(a_run_ends_at_its_first_limit, windows, "max_steps or per_epoch * epochs)", "max_steps)"),
    Contract(the_next_position_is_one_step_later, windows, "if batch + 1 < per_epoch", "if batch + 1 <= per_epoch"),
    Contract(a_step_knows_its_epoch_and_batch, windows, "epoch * per_epoch + batch", "epoch * per_epoch + batch + 1"),
    Contract(even_spacing_takes_as_many_as_the_limit, windows, "min(count, limit or count)", "limit or count"),
    Contract(
        even_spacing_is_in_order_and_in_range, windows, "index * count // chosen", "(index + 1) * count // chosen"
    ),
    Contract(rows_hold_each_item_once, windows, "rows[row].append(item)", "rows[row] = [item]"),
    Contract(
        rows_are_never_too_full, windows, "insort(spaces, (left - lengths[item], row))", "insort(spaces, (left, row))"
    ),
    Contract(a_sample_is_cut_without_loss_of_its_answer, windows, "max(0, first - length // 2)", "first + 1"),
    Contract(a_cut_answer_has_a_prompt_before_it, windows, "first - length // 2", "first - length"),
    Contract(the_decay_is_within_its_length, schedule, "min(step - warmup, decay_steps)", "step - warmup"),
    Contract(
        the_last_step_is_at_the_end_of_the_decay, schedule, "max(1, steps - 1 - warmup)", "max(1, steps - warmup)"
    ),
    Contract(rotation_keeps_the_latest, folders, "sorted(metrics)[:-keep_last]", "sorted(metrics)[keep_last:]"),
    Contract(rotation_keeps_the_best, folders, "if step != best]", "if step]"),
    Contract(the_best_of_equals_is_the_latest, folders, "(measured[step], -step)", "(measured[step], step)"),
)
