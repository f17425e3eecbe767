"""Instruction data: prompts that are read and answers that are learned, packed into rows of whole samples.

Where a sample's line holds `messages`, the model's chat template writes them out.
Legend: B rows, T positions, P positions of all rows end to end, R rows.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from andon.core.config import Config
from andon.core.data.batch import IGNORE, Batch
from andon.core.data.chat import ChatTemplate, Turn, turns
from andon.core.data.corpus import Source
from andon.core.data.dataset import Dataset, divide
from andon.core.data.sample_lines import InstructionError, Line, read_lines
from andon.core.data.shards import text_hash
from andon.core.data.tokenizer import check_vocabulary, encode, find_eos_id, special_names
from andon.core.data.windows import fill_rows, row_pieces


class Encoded(NamedTuple):
    """A sample's inputs, for each the token to predict or IGNORE, bytes of what is learned, and a hash of all text."""

    tokens: np.ndarray
    labels: np.ndarray
    bytes: int
    hash: int


class Samples(NamedTuple):
    """One side of the data as rows of at most `length` positions: row r is `bounds_R[r]` to `bounds_R[r + 1]`."""

    tokens_P: np.ndarray
    labels_P: np.ndarray
    documents_P: np.ndarray  # numbered within a row: no sample sees another
    bounds_R: np.ndarray
    length: int
    bytes: int  # of learned text

    def windows(self, length: int) -> int:
        """How many rows there are."""
        assert length == self.length, f"packed for rows of {self.length}, asked for {length}"
        return len(self.bounds_R) - 1

    def batch(self, indices: np.ndarray, length: int, padding: int) -> Batch:
        """The rows of these numbers; what they do not fill is padding, which no label asks for."""
        assert length == self.length, f"packed for rows of {self.length}, asked for {length}"
        tokens, labels, documents = (np.full((len(indices), length), fill) for fill in (padding, IGNORE, 0))
        for row, index in enumerate(indices):
            begin, end = self.bounds_R[index], self.bounds_R[index + 1]
            tokens[row, : end - begin] = self.tokens_P[begin:end]
            labels[row, : end - begin] = self.labels_P[begin:end]
            documents[row, : end - begin] = self.documents_P[begin:end]
            documents[row, end - begin :] = self.documents_P[end - 1]  # nothing sees what comes after it
        documents_BT = torch.from_numpy(documents) if documents.any() else None
        return Batch(torch.from_numpy(tokens), torch.from_numpy(labels), documents_BT)

    def bits_per_byte(self, nats: float) -> float:
        """A mean loss in nats a learned token as bits a byte of learned text."""
        return nats * int((self.labels_P != IGNORE).sum()) / (self.bytes * math.log(2))


def open_instructions(
    config: Config, sources: list[Source], tokenizer: Tokenizer, file: Path, template: ChatTemplate | None
) -> Dataset[Samples]:
    """Read, encode and pack all samples, divided into training and validation by their content.

    A sample is its prompt, its answers and the end token; labels are the answers' tokens and the end token after each.
    `file` is where the tokenizer lies for checkpoints to copy.

    Raises:
        CorpusError: a line that is no JSON, or fewer than two different samples.
        InstructionError: a line that is no sample.
        ChatError: messages that the template cannot write, or no template for them.
        TokenizerError: a tokenizer that does not fit the model, or without an end of document.
    """
    check_vocabulary(tokenizer, config.model.vocab_size, str(file))
    end = find_eos_id(tokenizer, str(file))
    special = special_names(tokenizer)
    lines = [line for source in sources for line in read_lines(source, special)]
    encoded = [encode_turns(tokenizer, found, end, chat=chat) for found, chat in _written(lines, template, special)]
    hashes_D = np.array([sample.hash for sample in encoded], np.uint64)
    bytes_D = np.array([sample.bytes for sample in encoded])
    held_out_D = divide(hashes_D, bytes_D, config.training.seed, config.validation.fraction)
    length = config.data.sequence_length
    sides = [
        [sample for sample, held_out in zip(encoded, held_out_D, strict=True) if held_out == side]
        for side in (False, True)
    ]
    train, validation = (pack_samples(side, length) for side in sides)
    return Dataset(train, validation, file, end, _note(encoded, train, validation, length))


def encode_turns(tokenizer: Tokenizer, found: list[Turn], end: int, *, chat: bool) -> Encoded:
    """A sample's tokens, turn by turn, as generation will see a prompt by itself and then an answer.

    The end token follows unless the last answer wrote a special token as its end. Where nothing comes before an answer,
    the end token does, from which generation starts without a prompt.
    """
    parts = encode(tokenizer, [text for text, _ in found], special=chat)
    tokens = [token for part in parts for token in part]
    learned = [turn.learned for turn, part in zip(found, parts, strict=True) for _ in part]
    if not (chat and found[-1].text.endswith(special_names(tokenizer))):
        tokens, learned = [*tokens, end], [*learned, True]
    if learned[0]:
        tokens, learned = [end, *tokens], [False, *learned]
    return Encoded(
        np.array(tokens[:-1]),
        np.where(learned[1:], tokens[1:], IGNORE),
        sum(len(text.encode()) for text, learned in found if learned),
        text_hash("\0".join(text for text, _ in found)),
    )


def pack_samples(samples: list[Encoded], length: int) -> Samples:
    """Rows of whole samples; one that is longer than a row is cut, and no answer's token is lost by it."""
    pieces = [piece for sample in samples for piece in cut(sample, length)]
    rows = fill_rows([len(tokens) for tokens, _ in pieces], length)
    sizes_R = [sum(len(pieces[item][0]) for item in row) for row in rows]
    packed = Samples(
        np.concatenate([pieces[item][0] for row in rows for item in row]),
        np.concatenate([pieces[item][1] for row in rows for item in row]),
        np.concatenate([np.full(len(pieces[item][0]), number) for row in rows for number, item in enumerate(row)]),
        np.cumsum([0, *sizes_R]),
        length,
        sum(sample.bytes for sample in samples),
    )
    learned, given = _learned(packed.labels_P), sum(_learned(sample.labels) for sample in samples)
    assert learned == given, f"{learned} tokens to learn in the rows, {given} in the samples"
    return packed


def cut(sample: Encoded, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A sample's inputs and labels, in pieces of at most `length`; those in which nothing is learned are left out.

    Of a sample that is too long, the answer's first token stands within a piece's first half and a prompt before it.
    """
    tokens, labels, _, _ = sample
    first = int(np.flatnonzero(labels != IGNORE)[0])
    pieces = [(tokens[begin:end], labels[begin:end]) for begin, end in row_pieces(len(tokens), first, length)]
    return [piece for piece in pieces if _learned(piece[1])]


def _learned(labels: np.ndarray) -> int:
    return int((labels != IGNORE).sum())


def _note(samples: list[Encoded], train: Samples, validation: Samples, length: int) -> str:
    total, used = sum(len(sample.tokens) for sample in samples), len(train.tokens_P) + len(validation.tokens_P)
    learned = _learned(train.labels_P) + _learned(validation.labels_P)
    rows = train.windows(length) + validation.windows(length)
    note = f"{len(samples):,} samples in {rows:,} rows of {length}: {used:,} tokens, {learned:,} of them to learn"
    longer = sum(len(sample.tokens) > length for sample in samples)
    if longer:
        note += f"; {longer:,} samples are longer than a row and were cut, {total - used:,} tokens of prompts left out"
    return note


def _written(
    lines: list[Line], template: ChatTemplate | None, special: tuple[str, ...]
) -> Iterator[tuple[list[Turn], bool]]:
    """Every line's turns, and whether a template wrote them, special tokens by name."""
    chats = [(line.where, line.messages) for line in lines if line.messages]
    if chats and template is None:
        raise InstructionError(
            f"{chats[0][0]}: holds messages and the model has no chat template; give --chat-template"
        )
    rendered = iter(turns(template, chats)) if template else iter(())
    for line in lines:
        yield (_closed(next(rendered), special), True) if line.messages else (line.turns, False)


def _closed(found: list[Turn], special: tuple[str, ...]) -> list[Turn]:
    """Each answer up to the token that ends it: white space between that and the next turn is nobody's answer."""
    turned, rest = [], ""
    for text, learned in found:
        body = text.rstrip() if learned and text.rstrip().endswith(special) else text
        turned.append(Turn(rest + body, learned))
        rest = text[len(body) :]
    return turned
