"""From files to batches: a corpus becomes two splits of its tokens, once, and nothing of it is lost on the way."""

import json
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.config import Config, parse_config
from andon.core.data import dataset as data
from andon.core.data import shards
from andon.core.data.batch import IGNORE, Batch, DataState
from andon.core.data.corpus import CorpusError, documents, find_sources
from andon.core.data.dataset import Dataset, Split, batches, epoch_order, held_out_mask, open_dataset
from andon.core.data.shards import EncodedDocument, open_store, read_tokens, write_store
from andon.core.data.tokenizer import TokenizerError, encode, load_tokenizer, train_tokenizer
from andon.core.data.windows import (
    batches_per_epoch,
    evenly_spaced,
    micro_batch_sizes,
    next_position,
    run_steps,
    shard_pieces,
)

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=8)
TRAINED = train_tokenizer([Path(__file__).read_text(encoding="utf-8")], 400)


def config(**tables: dict[str, Any]) -> Config:
    """A small run, with some keys of some tables set."""
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = {"vocab_size": 300, "num_key_value_heads": 1, **shape, **tables.pop("model", {})}
    sizes = {"sequence_length": 8, **tables.pop("data", {})}
    return parse_config({"model": model, "data": sizes, **tables}, "test")


@contextmanager
def stored(lengths: list[int], shard_tokens: int = 16) -> Generator[Split]:
    """Documents of these lengths, whose tokens count up from 0 through them all."""
    with tempfile.TemporaryDirectory() as folder:
        ends = np.cumsum(lengths)
        texts = [list(range(end - length, end)) for end, length in zip(ends.tolist(), lengths, strict=True)]
        write_store(Path(folder), [EncodedDocument(ids, 1, 1) for ids in texts], shard_tokens, 9999, {})
        yield data._split(open_store(Path(folder)), np.ones(len(lengths), bool))


def flat(step: tuple[list[Batch], DataState]) -> tuple[Any, ...]:
    """A step as plain numbers."""
    micro_batches, state = step
    return state, [[None if part is None else part.tolist() for part in batch] for batch in micro_batches]


def words(folder: Path, **files: str) -> dict[str, Any]:
    """A data table over text files."""
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return {"paths": [str(folder / f"{name}.txt") for name in files]}


def lines(word: str, count: int = 30) -> str:
    """A text of a few hundred bytes that no other word gives."""
    return "".join(f"{word} {number} says {word * 2}\n" for number in range(count))


@pytest.mark.tier2
def test_a_corpus_becomes_two_splits_of_its_tokens(tmp_path: Path) -> None:
    """Behavior: every document is on one side, whole, closed by one END; bytes are those of its text."""
    table = words(tmp_path, a=lines("ant"), b=lines("bee"), c=lines("cat"))
    found = open_dataset(config(data=table), tmp_path / "cache")
    tokenizer = load_tokenizer(found.tokenizer_file)
    texts = []
    for side in (found.train, found.validation):
        tokens, owners = side.read(np.arange(side.tokens))
        pieces = [tokens[owners == owner].tolist() for owner in range(owners[-1] + 1)]
        assert all(piece.count(found.eos_id) == 2 and piece[0] == piece[-1] == found.eos_id for piece in pieces)
        texts.append([tokenizer.decode(piece[1:-1]) for piece in pieces])
        assert side.bytes == sum(len(text) for text in texts[-1])
    assert lines("ant") + lines("bee") + lines("cat") == "".join(sorted(texts[0] + texts[1], key=order_of))
    assert set(texts[0]).isdisjoint(texts[1])


@pytest.mark.tier2
def test_tokens_are_used_again_until_something_changes(tmp_path: Path) -> None:
    """Behavior: a changed source, tokenizer or layout is noticed; seed, fraction and length change no token."""
    table = words(tmp_path, a=lines("ant"), b=lines("bee"))

    def note(changed: dict[str, Any] | None = None, **tables: dict[str, Any]) -> str:
        return open_dataset(config(data={**table, **(changed or {})}, **tables), tmp_path / "cache").note

    assert ["tokens written", "tokens reused"] == [note(), note()]
    assert "tokens reused" == note({"sequence_length": 4}, training={"seed": 3}, validation={"fraction": 0.4})
    assert "tokens written" == note({"shard_tokens": 50})
    (tmp_path / "a.txt").write_text(lines("ape"))
    assert "tokens written" == note()
    (tmp_path / "tokenizer.json").write_text(train_tokenizer([lines("dog")], 290).to_str())
    assert ["tokens written", "tokens reused"] == [note({"tokenizer": str(tmp_path / "tokenizer.json")}) for _ in "ab"]


@pytest.mark.tier2
def test_a_given_tokenizer_is_used_as_it_is(tmp_path: Path) -> None:
    """Behavior: its ids are the corpus's, and it lies beside the shards."""
    table = words(tmp_path, a=lines("ant"), b=lines("bee"))
    given = train_tokenizer([lines("dog")], 290)
    (tmp_path / "tokenizer.json").write_text(given.to_str())
    found = open_dataset(config(data={**table, "tokenizer": str(tmp_path / "tokenizer.json")}), tmp_path / "cache")
    assert given.to_str() == found.tokenizer_file.read_text()
    tokens, _ = found.train.read(np.arange(found.train.bounds[1]))
    text = given.decode(tokens[:-1].tolist())
    assert [found.eos_id, *encode(given, [text])[0], found.eos_id] == tokens.tolist()


@pytest.mark.tier2
def test_a_tokenizer_that_does_not_fit_the_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Behavior: ids beyond model.vocab_size, or no end of document, end in one error and an untouched disk."""
    table = words(tmp_path, a=lines("ant"), b=lines("bee"))
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer([Path(__file__).read_text()], 310).to_str())
    with pytest.raises(TokenizerError, match=r"ids go up to 309, beyond model\.vocab_size=300"):
        open_dataset(config(data={**table, "tokenizer": str(path)}), tmp_path / "cache")
    path.write_text(path.read_text().replace("<|endoftext|>", "<|pad|>"))
    wide = config(data={**table, "tokenizer": str(path)}, model={"vocab_size": 310})
    with pytest.raises(TokenizerError, match="has no end-of-document token"):
        open_dataset(wide, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.tier2
def test_a_corpus_shorter_than_one_sequence_is_refused(tmp_path: Path) -> None:
    """Behavior: the message has both numbers and what to do."""
    table = words(tmp_path, a="ant bee", b="cat dog")
    with pytest.raises(CorpusError, match=r"\d tokens to train on are less than one sequence .*sequence_length=8"):
        open_dataset(config(data=table), tmp_path / "cache")


@pytest.mark.tier2
def test_many_small_documents_are_encoded_in_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: however texts are grouped for encoding, the tokens are the same."""
    rows = [json.dumps({"text": lines("ant", number + 1)}) for number in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    table = {"paths": [str(tmp_path / "a.jsonl")]}
    one = open_dataset(config(data=table), tmp_path / "one")
    monkeypatch.setattr(data, "CHARACTERS_PER_CALL", 100)
    several = open_dataset(config(data=table), tmp_path / "several")
    hashes = [json.loads((found.train.store.folder / shards.MANIFEST).read_text())["files"] for found in (one, several)]
    assert hashes[0] == hashes[1]


def order_of(text: str) -> tuple[str, int]:
    """Where a piece stood in its file: its first whole line's word and number."""
    word, number, *_ = text.split(" ")
    return word, int(number)


@pytest.mark.tier3
@given(LENGTHS, st.integers(1, 20), st.integers(1, 6), st.integers(1, 6), st.integers(1, 50))
def test_an_epoch_predicts_every_token_once_from_the_one_before_it(
    lengths: list[int], length: int, rows: int, parts: int, shard_tokens: int
) -> None:
    """Behavior: all pairs of neighbors within a document, each exactly once, and no pair across two."""
    run = config(
        training={"batch_size": rows * parts, "accumulation_steps": parts, "epochs": 1},
        data={"sequence_length": max(2, length)},
    )
    with stored(lengths, max(2, shard_tokens)) as split:
        seen: Counter[tuple[int, int]] = Counter()
        for micro_batches, _ in batches(Dataset(split, split, Path(), 0, ""), run, DataState()):
            for batch in micro_batches:
                counted = batch.labels_BT != IGNORE
                seen.update(zip(batch.tokens_BT[counted].tolist(), batch.labels_BT[counted].tolist(), strict=True))
                if batch.documents_BT is not None:
                    apart = batch.documents_BT[:, 1:] != batch.documents_BT[:, :-1]
                    assert (batch.labels_BT[:, :-1][apart] == IGNORE).all()
    starts = set(np.cumsum(lengths).tolist())
    assert Counter(pair for pair in pairwise(range(sum(lengths))) if pair[1] not in starts) == seen


@pytest.mark.tier3
@settings(max_examples=25)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 1000), st.integers(0, 99))
def test_a_run_taken_up_anywhere_goes_on_as_it_would_have(
    lengths: list[int], rows: int, parts: int, workers: int, stop: int, seed: int
) -> None:
    """Behavior: the state's two integers give bitwise the same batches, with any other number of workers."""
    training = {"batch_size": rows * parts, "accumulation_steps": parts, "epochs": 3, "seed": seed}
    with stored(lengths) as split:
        both = Dataset(split, split, Path(), 0, "")
        whole = list(batches(both, config(training=training), DataState()))
        taken = stop % len(whole)
        state = [DataState(), *(state for _, state in whole)][taken]
        rest = list(batches(both, config(training=training, data={"workers": workers}), state))
        assert [flat(step) for step in whole[taken:]] == [flat(step) for step in rest]


@pytest.mark.tier2
@given(st.integers(0, 2**70), st.integers(0, 300), st.integers(0, 1000))
def test_an_order_is_a_permutation(seed: int, count: int, epoch: int) -> None:
    """Behavior: each window once, whatever seed and epoch."""
    assert list(range(count)) == sorted(epoch_order(seed, count, epoch).tolist())


@pytest.mark.tier2
@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(1, 10**6)), min_size=2, max_size=40),
    st.integers(0, 2**70),
    st.floats(0.001, 0.5),
)
def test_no_document_is_on_both_sides(rows: list[tuple[int, int]], seed: int, fraction: float) -> None:
    """Behavior: equal documents go together, neither side is empty, one document alone is refused."""
    hashes, sizes = (np.array(column, kind) for column, kind in zip(zip(*rows, strict=True), "Qq", strict=True))
    if len(set(hashes.tolist())) == 1:
        with pytest.raises(CorpusError):
            held_out_mask(hashes, sizes, seed, fraction)
        return
    held_out = held_out_mask(hashes, sizes, seed, fraction)
    assert held_out.any()
    assert not held_out.all()
    assert set(hashes[held_out].tolist()).isdisjoint(hashes[~held_out].tolist())


@pytest.mark.tier3
@given(LENGTHS, st.integers(1, 30), st.data())
def test_tokens_are_where_they_were_put(lengths: list[int], shard_tokens: int, draw: st.DataObject) -> None:
    """Behavior: any positions of the stream, in any order, through shards of any size."""
    positions = draw.draw(st.lists(st.integers(0, sum(lengths) - 1), max_size=20))
    with stored(lengths, shard_tokens) as split:
        assert positions == read_tokens(split.store, np.array(positions, int)).tolist()


@pytest.mark.tier2
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_from_its_tokens(text: str) -> None:
    """Behavior: bytes are the alphabet, so nothing is unknown."""
    assert text == TRAINED.decode(encode(TRAINED, [text])[0], skip_special_tokens=False)


@pytest.mark.tier3
@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=900), min_size=1, max_size=3))
def test_cutting_a_document_loses_no_character(texts: list[str]) -> None:
    """Behavior: pieces joined are the file, and none is empty or longer than the limit (here 256 characters)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.txt") for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text, encoding="utf-8")
        if not any(texts):
            return
        pieces = [piece for _, piece in documents(find_sources([str(path) for path in paths]), "text")]
    assert "".join(texts) == "".join(pieces)
    assert all(0 < len(piece) <= 256 for piece in pieces)


@pytest.mark.tier2
@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 60))
def test_pieces_of_shards_make_up_the_range(start: int, tokens: int, shard_tokens: int) -> None:
    """Behavior: each token of a range stands in one piece, in order, within its shard."""
    pieces = list(shard_pieces(start, start + tokens, shard_tokens))
    assert all(0 <= begin < end <= shard_tokens for _, begin, end in pieces)
    where = [shard * shard_tokens + at for shard, begin, end in pieces for at in range(begin, end)]
    assert list(range(start, start + tokens)) == where


@pytest.mark.tier2
@given(st.integers(0, 200), st.integers(1, 50))
def test_micro_batches_make_up_the_batch(rows: int, parts: int) -> None:
    """Behavior: sizes add up, differ by one at most, and none is empty."""
    sizes = micro_batch_sizes(rows, parts)
    assert rows == sum(sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert not sizes or 0 < sizes[0] - 1 <= sizes[-1] or sizes[0] == sizes[-1] == 1
    assert min(rows, parts) == len(sizes)


@pytest.mark.tier2
@given(st.integers(1, 100), st.integers(1, 20), st.integers(1, 5), st.integers(0, 50))
def test_positions_count_the_steps_of_a_run(windows: int, batch_size: int, epochs: int, max_steps: int) -> None:
    """Behavior: step number s is at batch s mod n of epoch s / n, for as many steps as the run has."""
    per_epoch = batches_per_epoch(windows, batch_size)
    assert (per_epoch - 1) * batch_size < windows <= per_epoch * batch_size
    position, steps = (0, 0), run_steps(per_epoch, epochs, max_steps)
    assert steps <= per_epoch * epochs
    for step in range(steps):
        assert divmod(step, per_epoch) == position
        position = next_position(*position, per_epoch)


@pytest.mark.tier2
@given(st.integers(0, 300), st.integers(0, 300))
def test_even_spacing_is_in_order_and_within(count: int, limit: int) -> None:
    """Behavior: as many as requested, or all; none twice."""
    chosen = evenly_spaced(count, limit)
    assert min(count, limit or count) == len(chosen)
    assert chosen == sorted(set(chosen))
    assert not chosen or 0 == chosen[0] <= chosen[-1] < count
