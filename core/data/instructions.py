"""Instruction data: prompts as context and answers to learn, packed into rows of complete samples.

Where a sample has `messages`, the model's chat template renders them.
Legend: B rows, T positions, P positions of all rows concatenated, R rows.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from andon.core.config import Config
from andon.core.data.batch import IGNORE, Batch
from andon.core.data.chat import ChatTemplate, Turn, render_turns
from andon.core.data.corpus import Source
from andon.core.data.dataset import Dataset, held_out_mask
from andon.core.data.instruction_records import InstructionError, InstructionRecord, read_instructions
from andon.core.data.shards import text_hash
from andon.core.data.tokenizer import (
    TextMarks,
    check_vocabulary,
    encode,
    encode_continuation,
    encode_spans,
    special_tokens,
    text_marks,
)
from andon.core.data.windows import fill_rows, row_pieces


class EncodedSample(NamedTuple):
    """A sample's input tokens, their labels or IGNORE, the bytes of learned text, and a hash of all text."""

    tokens: np.ndarray
    labels: np.ndarray
    bytes: int
    hash: int


class PackedSamples(NamedTuple):
    """One split as rows of at most `length` positions: row r is `bounds_R[r]` to `bounds_R[r + 1]`."""

    tokens_P: np.ndarray
    labels_P: np.ndarray
    documents_P: np.ndarray  # numbered within a row: no sample attends to another
    bounds_R: np.ndarray
    length: int
    bytes: int  # of learned text

    def windows(self, length: int) -> int:
        """Number of rows."""
        assert length == self.length, f"packed into rows of {self.length}, not of {length}"
        return len(self.bounds_R) - 1

    def batch(self, indices: np.ndarray, length: int, pad_id: int) -> Batch:
        """The rows with these indices; the rest of each is padding without labels."""
        assert length == self.length, f"packed into rows of {self.length}, not of {length}"
        tokens, labels, documents = (np.full((len(indices), length), fill) for fill in (pad_id, IGNORE, 0))
        for row, index in enumerate(indices):
            begin, end = self.bounds_R[index], self.bounds_R[index + 1]
            tokens[row, : end - begin] = self.tokens_P[begin:end]
            labels[row, : end - begin] = self.labels_P[begin:end]
            documents[row, : end - begin] = self.documents_P[begin:end]
            documents[row, end - begin :] = self.documents_P[end - 1]  # no earlier position attends to it
        documents_BT = torch.from_numpy(documents) if documents.any() else None
        return Batch(torch.from_numpy(tokens), torch.from_numpy(labels), documents_BT)

    def bits_per_byte(self, nats: float) -> float:
        """Convert a mean loss in nats per learned token to bits per byte of learned text."""
        return nats * int((self.labels_P != IGNORE).sum()) / (self.bytes * math.log(2))


def open_instructions(
    config: Config,
    sources: list[Source],
    tokenizer: Tokenizer,
    file: Path,
    template: ChatTemplate | None,
    eos_id: int | None = None,
) -> Dataset[PackedSamples]:
    """Read, encode and pack all samples, split into training and validation by their content.

    A sample is its prompt, its answers and the end token; labels are the answers' tokens and the end token after each.
    `file` is the tokenizer's file, which checkpoints copy. `eos_id` is the end token, by default that of a usual name.

    Raises:
        CorpusError: a line that is not valid JSON, or fewer than two different samples.
        InstructionError: a line that is not a sample.
        ChatError: messages that the template cannot render, or no template for them.
        TokenizerError: a tokenizer that does not match the model, or has no end-of-document token.
    """
    check_vocabulary(tokenizer, config.model.vocab_size, str(file))
    marks = text_marks(tokenizer, str(file), eos_id)
    special = special_tokens(tokenizer)
    records = [record for source in sources for record in read_instructions(source, special)]
    encoded = [
        encode_turns(tokenizer, turns, marks, chat=chat) for turns, chat in _sample_turns(records, template, special)
    ]
    hashes_D = np.array([sample.hash for sample in encoded], np.uint64)
    bytes_D = np.array([sample.bytes for sample in encoded])
    held_out_D = held_out_mask(hashes_D, bytes_D, config.training.seed, config.validation.fraction)
    length = config.data.sequence_length
    sides = [
        [sample for sample, held_out in zip(encoded, held_out_D, strict=True) if held_out == side]
        for side in (False, True)
    ]
    train, validation = (pack_samples(side, length) for side in sides)
    return Dataset(train, validation, file, marks.end, _note(encoded, train, validation, length))


def encode_turns(tokenizer: Tokenizer, turns: list[Turn], marks: TextMarks, *, chat: bool) -> EncodedSample:
    """A sample's tokens: a conversation's as of its whole text, where special tokens are parsed and none is added.

    Other turns are encoded as in generation, where a prompt is encoded alone, after what the tokenizer puts before
    every text, and an answer follows. The end is added unless the last answer ends with a special token. Without a
    prompt the sample begins as generation from an empty one does.
    """
    tokens, learned = _of_whole(tokenizer, turns) if chat else _of_parts(tokenizer, turns, marks)
    if not (chat and turns[-1].text.endswith(special_tokens(tokenizer))):
        tokens, learned = [*tokens, marks.end], [*learned, True]
    if learned[0]:
        tokens, learned = [*marks.first, *tokens], [*(False for _ in marks.first), *learned]
    return EncodedSample(
        np.array(tokens[:-1]),
        np.where(learned[1:], tokens[1:], IGNORE),
        sum(len(text.encode()) for text, learned in turns if learned),
        text_hash("\0".join(text for text, _ in turns)),
    )


def _of_whole(tokenizer: Tokenizer, turns: list[Turn]) -> tuple[list[int], list[bool]]:
    """The tokens of the joined text; one is learned that stands for any character of an answer."""
    tokens, spans = encode_spans(tokenizer, "".join(text for text, _ in turns))
    ends = list(accumulate(len(text) for text, _ in turns))
    owners = [(bisect_right(ends, begin), bisect_right(ends, max(begin, end - 1))) for begin, end in spans]
    return tokens, [any(turn.learned for turn in turns[first : last + 1]) for first, last in owners]


def _of_parts(tokenizer: Tokenizer, turns: list[Turn], marks: TextMarks) -> tuple[list[int], list[bool]]:
    """The tokens of a prompt as of any text, then those of what follows it."""
    (opening, _), *others = turns
    head = encode(tokenizer, [opening])[0]
    parts = [[*marks.begin, *head] if head else [], *(encode_continuation(tokenizer, text) for text, _ in others)]
    return (
        [token for part in parts for token in part],
        [turn.learned for turn, part in zip(turns, parts, strict=True) for _ in part],
    )


def pack_samples(samples: list[EncodedSample], length: int) -> PackedSamples:
    """Rows of complete samples; one longer than a row is split, without losing a token of its answers."""
    pieces = [piece for sample in samples for piece in split_sample(sample, length)]
    rows = fill_rows([len(tokens) for tokens, _ in pieces], length)
    sizes_R = [sum(len(pieces[item][0]) for item in row) for row in rows]
    packed = PackedSamples(
        np.concatenate([pieces[item][0] for row in rows for item in row]),
        np.concatenate([pieces[item][1] for row in rows for item in row]),
        np.concatenate([np.full(len(pieces[item][0]), number) for row in rows for number, item in enumerate(row)]),
        np.cumsum([0, *sizes_R]),
        length,
        sum(sample.bytes for sample in samples),
    )
    learned, given = _count_learned(packed.labels_P), sum(_count_learned(sample.labels) for sample in samples)
    assert learned == given, f"{learned} tokens to learn in the rows, {given} in the samples"
    return packed


def split_sample(sample: EncodedSample, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A sample's inputs and labels, in pieces of at most `length`; those without labels are left out.

    In a sample that is too long, the answer starts in the first half of a piece, with part of the prompt before it.
    """
    tokens, labels, _, _ = sample
    first = int(np.flatnonzero(labels != IGNORE)[0])
    pieces = [(tokens[begin:end], labels[begin:end]) for begin, end in row_pieces(len(tokens), first, length)]
    return [piece for piece in pieces if _count_learned(piece[1])]


def _count_learned(labels: np.ndarray) -> int:
    return int((labels != IGNORE).sum())


def _note(samples: list[EncodedSample], train: PackedSamples, validation: PackedSamples, length: int) -> str:
    total, used = sum(len(sample.tokens) for sample in samples), len(train.tokens_P) + len(validation.tokens_P)
    learned = _count_learned(train.labels_P) + _count_learned(validation.labels_P)
    rows = train.windows(length) + validation.windows(length)
    note = f"{len(samples):,} samples in {rows:,} rows of {length}: {used:,} tokens, {learned:,} of them to learn"
    longer = sum(len(sample.tokens) > length for sample in samples)
    if longer:
        note += (
            f"; {longer:,} samples are longer than a row and were split, {total - used:,} tokens of prompts left out"
        )
    return note


def _sample_turns(
    records: list[InstructionRecord], template: ChatTemplate | None, special: tuple[str, ...]
) -> Iterator[tuple[list[Turn], bool]]:
    """The turns of each record, and whether a template rendered them, so that special tokens are parsed."""
    chats = [record.conversation for record in records if record.conversation]
    if chats and template is None:
        raise InstructionError(
            f"{chats[0].where}: holds messages and the model has no chat template; give --chat-template"
        )
    rendered = iter(render_turns(template, chats)) if template else iter(())
    for record in records:
        if record.conversation:
            yield _end_at_special_token(next(rendered), special), True
        else:
            yield record.turns, False


def _end_at_special_token(turns: list[Turn], special: tuple[str, ...]) -> list[Turn]:
    """Each answer up to its closing token: white space after it, before the next turn, is not part of the answer."""
    ended, rest = [], ""
    for text, learned in turns:
        body = text.rstrip() if learned and text.rstrip().endswith(special) else text
        ended.append(Turn(rest + body, learned))
        rest = text[len(body) :]
    return ended
