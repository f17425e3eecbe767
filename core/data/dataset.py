"""Batches of packed windows from a corpus, in an order that the seed, the epoch and the batch determine.

Documents are concatenated, each ending with the end-of-document token, and cut into windows of `sequence_length`.
Legend: B rows, T positions, D documents.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import tokenizers
import torch
from tokenizers import Tokenizer

from andon.core.config import Config
from andon.core.data.batch import IGNORE, Batch, DataState
from andon.core.data.corpus import CorpusError, Source, documents, find_sources, is_jsonl
from andon.core.data.shards import (
    TOKENIZER,
    EncodedDocument,
    TokenStore,
    open_or_build,
    read_tokens,
    store_key,
    text_hash,
    write_store,
)
from andon.core.data.tokenizer import (
    TextMarks,
    check_vocabulary,
    encode,
    id_count,
    load_tokenizer,
    text_marks,
    train_tokenizer,
    training_sample,
)
from andon.core.data.windows import (
    batch_bounds,
    batches_per_epoch,
    evenly_spaced,
    micro_batch_sizes,
    next_position,
    run_steps,
    steps_done,
    window_count,
)

T = TypeVar("T")
CHARACTERS_PER_CALL = 1 << 22  # encoded in one call: enough for every core, and 200 MB at most


class Split(NamedTuple):
    """The documents of one split, concatenated: document d is its tokens `bounds[d]` to `bounds[d + 1]`."""

    store: TokenStore
    bounds: np.ndarray
    offsets_D: np.ndarray  # from a position in this split to that in the store's stream
    bytes: int

    @property
    def tokens(self) -> int:
        """Number of tokens, end-of-document tokens included."""
        return int(self.bounds[-1])

    def bits_per_byte(self, nats: float) -> float:
        """Convert a mean loss in nats per predicted token to bits per byte of text, comparable between tokenizers."""
        predicted = self.tokens - (len(self.bounds) - 1)  # all but the token that opens each document
        return nats * predicted / (self.bytes * math.log(2))

    def windows(self, length: int) -> int:
        """Number of windows of `length` inputs."""
        return window_count(self.tokens, length)

    def batch(self, indices: np.ndarray, length: int, pad_id: int) -> Batch:
        """The windows with these indices."""
        return pack(self, indices, length, pad_id)

    def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens at these positions and the index of each one's document, in the same shape (int64)."""
        owners = np.searchsorted(self.bounds, positions, side="right") - 1
        return read_tokens(self.store, positions + self.offsets_D[owners]), owners


class BatchSource(Protocol):
    """What training and validation need from their data: the number of windows, and batches of them."""

    def windows(self, length: int) -> int:
        """Number of windows of `length` inputs."""
        ...

    def batch(self, indices: np.ndarray, length: int, pad_id: int) -> Batch:
        """The windows with these indices."""
        ...

    def bits_per_byte(self, nats: float) -> float:
        """Convert a mean loss in nats per predicted token to bits per byte of text."""
        ...


S = TypeVar("S", bound=BatchSource)


class Dataset(NamedTuple, Generic[S]):
    """Two splits without a common document, the tokenizer's file, the end-of-document id, and a note on the source."""

    train: S
    validation: S
    tokenizer_file: Path
    eos_id: int
    note: str

    def steps(self, config: Config) -> int:
        """Optimizer steps of the full run."""
        return run_steps(_batches_per_epoch(self, config), config.training.epochs, config.training.max_steps)


def open_dataset(
    config: Config, cache: Path, tokenizer: Tokenizer | None = None, eos_id: int | None = None
) -> Dataset[Split]:
    """Tokenize the corpus, or reuse its tokens from `cache`, and split its documents into training and validation.

    `tokenizer` takes the place of the file in `data.tokenizer`; without either, one is trained on the corpus. `eos_id`
    ends each document; by default it is the token of a usual name.

    Raises:
        CorpusError: no text, a file that is not text, or too little text.
        TokenizerError: a tokenizer that cannot be read, or does not match the model's vocabulary.
        ShardError: the cache cannot be written.
    """
    data = config.data
    sources = find_sources(data.paths)
    given = _checked_tokenizer(tokenizer, config) if tokenizer or data.tokenizer else None
    marks = text_marks(given, data.tokenizer or "the model's tokenizer", eos_id) if given else None
    inputs = {
        "sources": [[is_jsonl(source), source.sha256] for source in sources],
        "text_field": data.text_field,
        "tokenizer": given.to_str() if given else config.model.vocab_size,
        "marks": marks,
        "tokenizers": tokenizers.__version__,
        "shard_tokens": data.shard_tokens,
    }
    store, note = open_or_build(cache, store_key(inputs), partial(_build_store, config, sources, given, marks))
    held_out_D = held_out_mask(store.hashes_D, store.bytes_D, config.training.seed, config.validation.fraction)
    train, validation = _split(store, ~held_out_D), _split(store, held_out_D)
    if train.tokens <= data.sequence_length:
        raise CorpusError(
            f"data.paths={data.paths}: {train.tokens} tokens to train on are less than one sequence "
            f"(data.sequence_length={data.sequence_length} and the token after it); add text or shorten the sequence"
        )
    file = store.folder / TOKENIZER
    end = marks.end if marks else text_marks(load_tokenizer(file), str(file)).end
    return Dataset(train, validation, file, end, note)


def held_out_mask(hashes_D: np.ndarray, bytes_D: np.ndarray, seed: int, fraction: float) -> np.ndarray:
    """Which documents are held out: the first ones, up to `fraction`, in an order determined by content and seed.

    The fraction is of bytes. Equal documents are kept together. Each split gets at least one.

    Raises:
        CorpusError: fewer than two different documents.
    """
    _, rank_D = np.unique(_splitmix64(hashes_D ^ _splitmix64(np.array([seed % 2**64], np.uint64))), return_inverse=True)
    total_R = np.cumsum(np.bincount(rank_D, weights=bytes_D))
    if len(total_R) < 2:
        raise CorpusError(f"the corpus has {len(total_R)} different documents, and one is held out; add other text")
    held_out = np.searchsorted(total_R, fraction * total_R[-1], side="right")
    return rank_D < np.clip(held_out, 1, len(total_R) - 1)


def batches(dataset: Dataset, config: Config, state: DataState) -> Iterator[tuple[list[Batch], DataState]]:
    """From `state` to the run's end: the micro-batches of each optimizer step, and the state after it.

    Epoch e visits every window of the training split once, in an order that only `training.seed` and e determine. Its
    last batch may be smaller. `data.workers` threads prepare batches ahead (0: none); they do not change the batches,
    and end with the iterator.

    Raises:
        CorpusError: `state` belongs to other data.
    """
    count = dataset.train.windows(config.data.sequence_length)
    per_epoch = _batches_per_epoch(dataset, config)
    if state.batch >= per_epoch:
        raise CorpusError(
            f"batch {state.batch} of epoch {state.epoch} is beyond the {per_epoch} batches of an epoch: corpus, "
            "data.sequence_length or training.batch_size changed; resume with those that the run was started with"
        )
    order = lru_cache(maxsize=2)(partial(epoch_order, config.training.seed, count))

    def prepare(step: int) -> tuple[list[Batch], DataState]:
        epoch, batch = divmod(step, per_epoch)
        begin, end = batch_bounds(batch, config.training.batch_size, count)
        chosen = order(epoch)[begin:end]
        sizes = micro_batch_sizes(len(chosen), config.training.accumulation_steps)
        parts = np.split(chosen, np.cumsum(sizes)[:-1])
        packed = [dataset.train.batch(part, config.data.sequence_length, dataset.eos_id) for part in parts]
        return packed, DataState(*next_position(epoch, batch, per_epoch))

    steps = range(steps_done(*state, per_epoch), dataset.steps(config))
    return _prefetch(prepare, iter(steps), config.data.workers)


def validation_batches(dataset: Dataset, config: Config) -> Iterator[Batch]:
    """The validation split in micro-batches, always the same: all windows, or `max_sequences` evenly spaced ones."""
    count = dataset.validation.windows(config.data.sequence_length)
    chosen = np.array(evenly_spaced(count, config.validation.max_sequences))
    rows = config.training.batch_size // config.training.accumulation_steps
    for first in range(0, len(chosen), rows):
        part = chosen[first : first + rows]
        yield dataset.validation.batch(part, config.data.sequence_length, dataset.eos_id)


def epoch_order(seed: int, count: int, epoch: int) -> np.ndarray:
    """A permutation of `count` windows: the ranks of Philox's raw words for the key (seed, epoch).

    Philox 4x64-10 (Salmon et al. 2011) is a fixed function, so the order does not depend on numpy's version.
    """
    key = np.array([seed % 2**64, epoch], np.uint64)  # from a list numpy would round large seeds to a float
    return np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")


def pack(split: Split, indices: np.ndarray, length: int, pad_id: int) -> Batch:
    """The windows `indices` of a split: inputs from `i * length` on, each with the next token as its label."""
    positions = np.asarray(indices)[:, None] * length + np.arange(length + 1)
    outside = positions >= split.tokens
    tokens, owners = split.read(np.minimum(positions, split.tokens - 1))
    tokens[outside] = pad_id
    labels = np.where((owners[:, 1:] != owners[:, :-1]) | outside[:, 1:], IGNORE, tokens[:, 1:])
    within = owners[:, :-1] - owners[:, :1]
    documents_BT = torch.from_numpy(within) if within.any() else None
    return Batch(torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(labels), documents_BT)


def _checked_tokenizer(tokenizer: Tokenizer | None, config: Config) -> Tokenizer:
    source = config.data.tokenizer or "the model's tokenizer"
    tokenizer = tokenizer or load_tokenizer(Path(source), foreign=True)
    check_vocabulary(tokenizer, config.model.vocab_size, source)
    return tokenizer


def _build_store(
    config: Config, sources: list[Source], given: Tokenizer | None, marks: TextMarks | None, folder: Path
) -> None:
    def texts() -> Iterator[str]:
        return (text for _, text in documents(sources, config.data.text_field))

    tokenizer = given
    if tokenizer is None:
        total_bytes, vocab_size = sum(source.bytes for source in sources), config.model.vocab_size
        tokenizer = train_tokenizer(training_sample(texts(), total_bytes, vocab_size), vocab_size)
    (folder / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    about = {"sources": {source.path.as_posix(): source.sha256 for source in sources}}
    marks = marks or text_marks(tokenizer, TOKENIZER)
    write_store(folder, _encode_all(tokenizer, texts(), marks), config.data.shard_tokens, id_count(tokenizer), about)


def _encode_all(tokenizer: Tokenizer, texts: Iterator[str], marks: TextMarks) -> Iterator[EncodedDocument]:
    waiting: list[str] = []
    characters = 0
    for text in texts:
        waiting.append(text)
        characters += len(text)
        if characters >= CHARACTERS_PER_CALL:
            yield from _encode_documents(tokenizer, waiting, marks)
            waiting, characters = [], 0
    yield from _encode_documents(tokenizer, waiting, marks)


def _encode_documents(tokenizer: Tokenizer, texts: list[str], marks: TextMarks) -> Iterator[EncodedDocument]:
    for text, ids in zip(texts, encode(tokenizer, texts), strict=True):
        # A token at both ends, so that the first token is predicted too, and with it how a document begins.
        yield EncodedDocument([*marks.first, *ids, marks.end], len(text.encode()), text_hash(text))


def _splitmix64(words: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele et al. 2014): a bijection of 64-bit words that looks random."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _split(store: TokenStore, chosen_D: np.ndarray) -> Split:
    starts_D = np.concatenate([[0], store.ends_D[:-1]])[chosen_D]
    bounds = np.concatenate([[0], np.cumsum(store.ends_D[chosen_D] - starts_D)])
    return Split(store, bounds, starts_D - bounds[:-1], int(store.bytes_D[chosen_D].sum()))


def _batches_per_epoch(dataset: Dataset, config: Config) -> int:
    return batches_per_epoch(dataset.train.windows(config.data.sequence_length), config.training.batch_size)


def _prefetch(make: Callable[[int], T], steps: Iterator[int], workers: int) -> Iterator[T]:
    """`make(step)` for each step in order, computed up to `workers` steps ahead by as many threads."""
    if not workers:
        yield from map(make, steps)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(make, step) for step in islice(steps, workers))
        while waiting:
            first = waiting.popleft()
            waiting.extend(pool.submit(make, step) for step in islice(steps, 1))
            yield first.result()
    finally:
        pool.shutdown(cancel_futures=True)
