"""Rows that documents were packed into, and where in them each document stands.

Legend: B batch, T time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from andon.verify.access.calls import new_batch
from andon.verify.access.documents import documents_in, documents_key
from andon.verify.access.parts import find, part
from andon.verify.access.targets import targets_of, tokens_of
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Documents, Subject

ROWS = 3  # that documents are to fill
CHANCE = 1e6  # one to this many that a document stands somewhere by chance

Make = Callable[[Documents], Batch]


class Place(NamedTuple):
    """Where a document stands: a row, and the place of its first token."""

    row: "Row"
    begin: int


class Row(NamedTuple):
    """What a row says of each place."""

    number: int
    tokens: list[int]
    targets: list[int]
    positions: list[int]  # empty where the batch has none
    documents: list[int]  # numbers; empty where the batch has none

    def places_of(self, document: Sequence[int]) -> list[Place]:
        """Where the document stands, whole or with its last token as a target alone."""
        return [Place(self, begin) for begin in range(len(self.tokens)) if self._holds(document, begin)]

    def _holds(self, document: Sequence[int], begin: int) -> bool:
        *most, last = document
        end = begin + len(most)
        if self.tokens[begin:end] != most:
            return False
        return self.tokens[end : end + 1] == [last] or self.targets[end - 1] == last


def rows_in(subject: Subject, batch: Batch) -> list[Row]:
    """The rows of a batch."""
    tokens_BT, found = tokens_of(subject, batch), find(subject, batch)
    positions = part(subject, batch, "positions") if "positions" in found else None
    has_positions = positions is not None and positions.shape == tokens_BT.shape
    columns = [tokens_BT.tolist(), targets_of(subject, batch).tolist()]
    columns.append(positions.tolist() if has_positions and positions is not None else [[]] * len(tokens_BT))
    numbers = documents_in(subject, batch).tolist()
    columns.append(numbers if has_positions or documents_key(subject, batch) is not None else [[]] * len(tokens_BT))
    return [Row(number, *each) for number, each in enumerate(zip(*columns, strict=True))]


def documents_for_several_rows(subject: Subject, longest: int) -> list[list[int]]:
    """Documents of unlike sizes, up to the longest, of tokens that occur in batches: more than fit into one row.

    Raises:
        NotApplicable: too few tokens occur, or documents are too short, to tell one document from another.
    """
    words = [word for word in tokens_of(subject, new_batch(subject)).unique().tolist() if word not in _marks(subject)]
    fewest = next((size for size in range(4, longest) if len(words) ** size > CHANCE), longest)
    if len(words) < 2 or fewest >= longest:
        raise NotApplicable("documents long enough, and of enough different tokens, to be told from each other")
    generator, documents = torch.Generator().manual_seed(0), list[list[int]]()
    most = max(fewest + 1, longest // 2)  # some fit beside each other
    while sum(map(len, documents)) < ROWS * longest:
        size = int(torch.randint(fewest, most, (), generator=generator)) if documents else longest
        documents.append([words[i] for i in torch.randint(len(words), (size,), generator=generator).tolist()])
    return documents


def _marks(subject: Subject) -> tuple[int | None, int | None]:
    return subject.eos_id, subject.pad_id


def is_cut(rows: Sequence[Row], document: Sequence[int]) -> bool:
    """Whether a document ends one row and goes on at the beginning of another."""
    for size in range(1, len(document)):
        head, rest = list(document[:size]), list(document[size:])
        ends = any(row.tokens[-size:] == head for row in rows)
        if ends and any(row.tokens[: len(rest)] == rest or row.tokens[: len(rest) - 1] == rest[:-1] for row in rows):
            return True
    return False
