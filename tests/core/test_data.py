"""Batches hold every token once, no document sees another, and two integers bring the order back."""

import contextlib
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from andon.core.config import Config, parse_config
from andon.core.data import dataset as data
from andon.core.data.batch import IGNORE, Batch, DataState
from andon.core.data.corpus import CorpusError
from andon.core.data.dataset import Dataset, Split, batches, epoch_order, held_out_mask, pack, validation_batches
from andon.core.data.shards import EncodedDocument, open_store, write_store

pytestmark = pytest.mark.tier2
END = 0


def config(**tables: dict[str, Any]) -> Config:
    """A small run, with some keys of some tables set."""
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = {"vocab_size": 300, "num_key_value_heads": 1, **shape, **tables.pop("model", {})}
    training = {"batch_size": 4, "epochs": 3, **tables.pop("training", {})}
    sizes = {"sequence_length": 8, **tables.pop("data", {})}
    return parse_config({"model": model, "training": training, "data": sizes, **tables}, "test")


def split(folder: Path, *lengths: int) -> Split:
    """Documents of these lengths, whose tokens count up from 1 through them all; the last of each is END."""
    folder.mkdir()
    stream = iter(range(1, sum(lengths) + 1))
    texts = [[*islice(stream, length - 1), END] for length in lengths]
    write_store(folder, [EncodedDocument(ids, 3 * len(ids), number) for number, ids in enumerate(texts)], 50, 9999, {})
    store = open_store(folder)
    return data._split(store, np.ones(len(lengths), bool))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Thirteen windows of 8 in training, four in validation, the last of each not full."""
    root = tmp_path_factory.mktemp("dataset")
    train, validation = split(root / "train", 30, 5, 2, 40, 25), split(root / "validation", 20, 9)
    return Dataset(train, validation, root / "tokenizer.json", END, "")


def test_labels_are_the_tokens_that_follow(tmp_path: Path) -> None:
    """Behavior: label t is input t + 1, within a window and from its last input to the next window's first."""
    batch = pack(split(tmp_path / "a", 40), np.array([1, 3]), 8, END)
    assert [list(range(9, 17)), list(range(25, 33))] == batch.tokens_BT.tolist()
    assert [list(range(10, 18)), list(range(26, 34))] == batch.labels_BT.tolist()
    assert batch.documents_BT is None
    assert {torch.int64} == {batch.tokens_BT.dtype, batch.labels_BT.dtype}


def test_the_end_of_a_document_is_predicted_and_what_follows_it_is_not(tmp_path: Path) -> None:
    """Behavior: END is a label; from END, the next document's first token is ignored."""
    batch = pack(split(tmp_path / "a", 4, 3, 4), np.array([0]), 8, END)
    assert [[1, 2, 3, END, 4, 5, END, 6]] == batch.tokens_BT.tolist()
    assert [[2, 3, END, IGNORE, 5, END, IGNORE, 7]] == batch.labels_BT.tolist()
    assert batch.documents_BT is not None
    assert [[0, 0, 0, 0, 1, 1, 1, 2]] == batch.documents_BT.tolist()


def test_documents_are_numbered_where_one_row_holds_two(tmp_path: Path) -> None:
    """Behavior: one such row numbers the micro-batch; an ignored label at a row's end makes no second document."""
    several = split(tmp_path / "a", 8, 4, 12)
    assert pack(several, np.array([0, 2]), 8, END).documents_BT is None
    mixed = pack(several, np.array([0, 1]), 8, END)
    assert mixed.documents_BT is not None
    assert [[0] * 8, [0] * 4 + [1] * 4] == mixed.documents_BT.tolist()
    assert IGNORE == mixed.labels_BT[0, 7]


def test_the_last_window_is_padded_and_its_padding_not_counted(tmp_path: Path) -> None:
    """Behavior: a tail shorter than a window is kept; a label is ignored exactly where nothing follows."""
    batch = pack(split(tmp_path / "a", 12), np.array([1]), 8, 77)
    assert [[9, 10, 11, END, 77, 77, 77, 77]] == batch.tokens_BT.tolist()
    assert [[10, 11, END] + [IGNORE] * 5] == batch.labels_BT.tolist()
    assert batch.documents_BT is None


@pytest.mark.parametrize(("length", "windows"), [(8, 1), (9, 1), (10, 2), (17, 2), (18, 3)])
def test_a_document_that_fits_exactly_is_kept(tmp_path: Path, length: int, windows: int) -> None:
    """Behavior: no label is lost or repeated around multiples of the window's length."""
    one = split(tmp_path / "a", length)
    both = Dataset(one, one, tmp_path, END, "")
    (micro_batches, _), *_ = batches(both, config(), DataState())
    labels = torch.cat([batch.labels_BT for batch in micro_batches])
    assert windows == len(labels)
    assert [END, *range(2, length)] == sorted(labels[labels != IGNORE].tolist())


def test_an_epoch_visits_every_window_once_and_the_last_batch_is_smaller(dataset: Dataset) -> None:
    """Behavior: 13 windows in batches of 4 are 4, 4, 4 and 1; each epoch has them all, in another order."""
    steps = list(batches(dataset, config(), DataState()))
    rows = [[row for batch in micro_batches for row in batch.tokens_BT.tolist()] for micro_batches, _ in steps]
    assert [4, 4, 4, 1] * 3 == [len(step) for step in rows]
    epochs = [[tuple(row) for step in rows[epoch * 4 : epoch * 4 + 4] for row in step] for epoch in range(3)]
    assert 13 == len(set(epochs[0]))
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert 3 == len({tuple(epoch) for epoch in epochs})


def test_states_count_batches_and_epochs(dataset: Dataset) -> None:
    """Behavior: the state is that after the step, and what is used up is the next epoch's beginning."""
    states = [state for _, state in batches(dataset, config(), DataState())]
    expected = [DataState(epoch, batch) for epoch in range(3) for batch in range(4)][1:]
    assert [*expected, DataState(3, 0)] == states
    assert 12 == len(states) == dataset.steps(config())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_state_goes_on_with_the_same_batches_and_any_number_of_workers(dataset: Dataset, workers: int) -> None:
    """Behavior: a run taken up at any step, also within a later epoch, sees bitwise what it would have seen."""
    whole = list(batches(dataset, config(training={"accumulation_steps": 2}), DataState()))
    resumed = config(training={"accumulation_steps": 2}, data={"workers": workers})
    states = [DataState(), *(state for _, state in whole)]
    for step in (0, 3, 4, 10):
        rest = list(batches(dataset, resumed, states[step]))
        assert [flat(one) for one in whole[step:]] == [flat(one) for one in rest]


def test_a_state_of_other_data_is_refused(dataset: Dataset) -> None:
    """Behavior: a batch that an epoch does not have means that corpus or sizes changed."""
    with pytest.raises(CorpusError, match="batch 4 of epoch 1 is beyond the 4 batches of an epoch"):
        batches(dataset, config(), DataState(1, 4))


def test_micro_batches_split_a_batch_without_loss(dataset: Dataset) -> None:
    """Behavior: one batch of 4 and four of 1 hold the same rows in the same order; a small last batch has fewer."""
    whole = list(batches(dataset, config(), DataState()))
    parts = list(batches(dataset, config(training={"accumulation_steps": 4}), DataState()))
    assert [4, 4, 4, 1] * 3 == [len(micro_batches) for micro_batches, _ in parts]
    for (one, _), (several, _) in zip(whole, parts, strict=True):
        assert one[0].tokens_BT.tolist() == [row for batch in several for row in batch.tokens_BT.tolist()]


def test_a_run_ends_after_max_steps(dataset: Dataset) -> None:
    """Behavior: `max_steps` stops within an epoch, and a finished state gives nothing more."""
    short = config(training={"max_steps": 5, "batch_size": 4}, schedule={"warmup_steps": 0})
    states = [state for _, state in batches(dataset, short, DataState())]
    assert [DataState(1, 1)] == states[4:]
    assert [] == list(batches(dataset, short, states[-1]))


def test_the_order_is_philoxs() -> None:
    """Reference: ranks of Philox 4x64-10's words for key (seed, epoch), as numpy's raw generator gives them."""
    words = np.random.Philox(key=[7, 2]).random_raw(10).tolist()
    assert sorted(range(10), key=words.__getitem__) == epoch_order(7, 10, 2).tolist()
    assert [6, 7, 8, 4, 0, 1, 5, 3, 9, 2] == epoch_order(7, 10, 2).tolist()
    keys = [(0, 0), (0, 1), (1, 0), (2**63, 0), (2**63 + 1, 0), (2**64 - 1, 0)]
    assert 6 == len({tuple(epoch_order(seed, 50, epoch).tolist()) for seed, epoch in keys})


def test_workers_are_threads_that_end_with_the_iterator(dataset: Dataset) -> None:
    """Behavior: none before the first batch, as many as requested, none left after a consumer stops early."""
    before = set(threading.enumerate())
    upcoming = batches(dataset, config(data={"workers": 2}), DataState())
    assert before == set(threading.enumerate())
    next(upcoming)
    assert 2 == len(set(threading.enumerate()) - before)
    del upcoming
    assert before == set(threading.enumerate())


def test_no_thread_outlives_a_consumer_that_raises(dataset: Dataset) -> None:
    """Behavior: an error in the loop's body ends the threads as its frame goes."""
    before = set(threading.enumerate())

    def consume() -> None:
        for _ in batches(dataset, config(data={"workers": 2}), DataState()):
            raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        consume()
    assert before == set(threading.enumerate())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_reaches_the_consumer(
    dataset: Dataset, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: batches before the failing one arrive, then its error, and the threads are gone."""
    before, real = set(threading.enumerate()), data.pack

    def fragile(part: Split, indices: np.ndarray, length: int, padding: int) -> Batch:
        if len(indices) == 1:  # the epoch's last batch
            raise OSError("shard is gone")
        return real(part, indices, length, padding)

    monkeypatch.setattr(data, "pack", fragile)
    upcoming = batches(dataset, config(data={"workers": workers}), DataState())
    assert 3 == len([next(upcoming) for _ in range(3)])
    with pytest.raises(OSError, match="shard is gone"):
        next(upcoming)
    assert before == set(threading.enumerate())


def test_validation_is_the_same_each_time_and_counts_every_label(dataset: Dataset) -> None:
    """Behavior: fixed order, rows as in a micro-batch, all labels but the first token of each document."""
    run = config(training={"accumulation_steps": 2})
    held_out = list(validation_batches(dataset, run))
    assert [2, 2] == [len(batch.tokens_BT) for batch in held_out]
    labels = torch.cat([batch.labels_BT for batch in held_out])
    assert [END, END, *range(2, 20), *range(21, 28)] == sorted(labels[labels != IGNORE].tolist())
    again = list(validation_batches(dataset, run))
    assert flat((held_out, DataState())) == flat((again, DataState()))


def test_a_limited_validation_is_evenly_spaced_over_the_split(dataset: Dataset) -> None:
    """Behavior: `max_sequences` of the windows, from all over."""
    held_out = list(validation_batches(dataset, config(validation={"max_sequences": 2})))
    assert [1, 17] == torch.cat([batch.tokens_BT[:, 0] for batch in held_out]).tolist()


def test_bits_per_byte_do_not_depend_on_the_tokenizer(tmp_path: Path) -> None:
    """Reference: bits of all predicted tokens over all bytes: here 3 for each of 30 + 12 tokens but the two first."""
    assert pytest.approx(3 * 40 / 126, rel=1e-12) == split(tmp_path / "a", 30, 12).bits_per_byte(float(np.log(8)))


def test_equal_documents_are_held_out_together_or_not_at_all() -> None:
    """Behavior: the hash of the content decides, whatever stands around it."""
    hashes = np.array([5, 9, 5, 1, 9, 5, 2, 3], np.uint64)
    for seed in range(20):
        held_out = held_out_mask(hashes, np.full(8, 100), seed, 0.3)
        assert {False, True} == set(held_out.tolist())
        assert set(hashes[held_out].tolist()).isdisjoint(hashes[~held_out].tolist())


def test_the_share_held_out_is_of_bytes_and_drawn_by_the_seed() -> None:
    """Behavior: close to the fraction where documents are small; another seed holds out others."""
    hashes, sizes = np.arange(10_000, dtype=np.uint64), np.arange(10_000) % 100 + 1
    seen = [held_out_mask(hashes, sizes, seed, 0.05) for seed in (0, 1)]
    assert pytest.approx([0.05, 0.05], rel=0.01) == [sizes[one].sum() / sizes.sum() for one in seen]
    assert (seen[0] & seen[1]).sum() < 50
    assert (seen[0] == held_out_mask(hashes, sizes, 0, 0.05)).all()


@pytest.mark.parametrize(("sizes", "fraction"), [([1, 1000], 0.01), ([1000, 1], 0.5), ([1, 1, 1], 0.01)])
def test_each_side_gets_a_document(sizes: list[int], fraction: float) -> None:
    """Behavior: with few documents the fraction gives way."""
    held_out = held_out_mask(np.arange(len(sizes), dtype=np.uint64), np.array(sizes), 0, fraction)
    assert 1 == held_out.sum()


@pytest.mark.parametrize("hashes", [[], [7], [7, 7, 7]])
def test_a_corpus_of_one_document_is_refused(hashes: list[int]) -> None:
    """Behavior: what would be held out is what was trained on."""
    with pytest.raises(CorpusError, match=f"has {len(set(hashes))} different documents"):
        held_out_mask(np.array(hashes, np.uint64), np.ones(len(hashes)), 0, 0.1)


def flat(step: tuple[list[Batch], DataState]) -> tuple[Any, ...]:
    """A step as plain numbers."""
    micro_batches, state = step
    return state, [[None if part is None else part.tolist() for part in batch] for batch in micro_batches]
