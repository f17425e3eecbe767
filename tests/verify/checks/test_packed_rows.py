"""Packing into several rows: each document in one of them, once and whole, with what belongs to it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify import check
from andon.verify.run.report import RED, YELLOW
from andon.verify.subject import Documents, Subject
from tests.verify.checks.test_correct_training import ABSENT, GREEN, light
from tests.verify.small import small

pytestmark = pytest.mark.tier2
FINDERS = ("packing.rows",)
VOCAB, LENGTH = 40, 16
Batch = dict[str, Tensor]
Packed = list[list[Sequence[int]]]


class Model(nn.Module):
    """Words from themselves and their place."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCAB, 8), nn.Embedding(LENGTH + 1, 8)
        self.head = nn.Linear(8, VOCAB)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.head(self.words(tokens) + self.places(positions))


class Distances(nn.Module):
    """Words from those before them, weighed by how far before, in one document."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(VOCAB, 8), nn.Linear(8, VOCAB)

    def forward(self, tokens: Tensor, positions: Tensor, documents: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        apart = (positions[:, :, None] - positions[:, None]).abs()
        hidden = (documents[:, :, None] != documents[:, None]) | torch.ones_like(apart).triu(1).bool()
        return self.head((-apart.float()).masked_fill(hidden, -torch.inf).softmax(-1) @ self.words(tokens))


def loss_of_distances(model: nn.Module, given: Batch) -> Tensor:
    """Mean nats per token."""
    logits = model(given["input_ids"], given["position_ids"], given["documents"])
    return cross_entropy(logits.flatten(0, 1), given["labels"].flatten())


def loss(model: nn.Module, given: Batch) -> Tensor:
    """Mean nats per token."""
    logits = model(given["input_ids"], given["position_ids"])
    return cross_entropy(logits.flatten(0, 1), given["labels"].flatten())


def greedily(documents: Documents) -> Packed:
    """A new row where the next one does not fit."""
    rows: Packed = [[]]
    for each in documents:
        if sum(map(len, rows[-1])) + len(each) > LENGTH:
            rows.append([])
        rows[-1].append(each)
    return rows


def largest_first(documents: Documents) -> Packed:
    """The first row in which there is room."""
    rows: Packed = []
    for each in sorted(documents, key=len, reverse=True):
        room = next((row for row in rows if sum(map(len, row)) + len(each) <= LENGTH), None)
        if room is None:
            rows.append(room := [])
        room.append(each)
    return rows


def dropping(documents: Documents) -> Packed:
    """What does not fit is forgotten."""
    rows: Packed = [[]]
    for each in documents:
        if sum(map(len, rows[-1])) + len(each) > LENGTH:
            rows.append([])
        else:
            rows[-1].append(each)
    return [row for row in rows if row]


def doubling(documents: Documents) -> Packed:
    """What begins a row ends the one before, too, if there is room."""
    rows = largest_first(documents)
    return [*rows, rows[0]] if len(rows) > 1 else rows


def one_stream(documents: Documents) -> Packed:
    """Rows are cut from one stream."""
    stream = [token for each in documents for token in each]
    return [[stream[begin : begin + LENGTH]] for begin in range(0, len(stream), LENGTH)]


def in_one(documents: Documents) -> Packed:
    """One row of all."""
    return [list(documents)]


def side_by_side(pack: Callable[[Documents], Packed], change: Callable[[Batch], None] = lambda _: None) -> Any:
    """A collator of rows with labels, positions and document numbers; the rest is padding."""

    def collate(documents: Documents) -> Batch:
        rows = pack(documents)
        width = max(LENGTH, *(sum(map(len, row)) for row in rows))
        made = {
            key: torch.zeros(len(rows), width, dtype=torch.int64) for key in ("input_ids", "position_ids", "documents")
        }
        made["labels"] = torch.full_like(made["input_ids"], -100)
        for index, row in enumerate(rows):
            begin = 0
            for number, each in enumerate(row):
                end, ids = begin + len(each), torch.tensor(each)
                made["input_ids"][index, begin:end] = ids
                made["labels"][index, begin : end - 1] = ids[1:]
                made["position_ids"][index, begin:end] = torch.arange(len(each)).clamp_max(LENGTH)
                made["documents"][index, begin:end] = number
                begin = end
            made["documents"][index, begin:] = len(row)
        if len(rows) > 1:
            change(made)
        return made

    return collate


def subject(collate: Any, **parts: Any) -> Subject:
    """A subject that packs."""

    def batch(generator: torch.Generator) -> Batch:
        ids = torch.randint(1, VOCAB, (4, 3, 5), generator=generator)
        return side_by_side(lambda documents: [list(documents[at : at + 3]) for at in range(0, 12, 3)])(
            ids.flatten(0, 1).tolist()
        )

    return small(**{"model": Model, "batch": batch, "loss": loss, "collate_packed": collate, "pad_id": 0} | parts)


def shift_second(made: Batch) -> None:
    """Labels of the second row are one place late."""
    made["labels"][1] = made["labels"][1].roll(1)


def go_on(made: Batch) -> None:
    """Positions do not begin anew."""
    made["position_ids"][:] = torch.arange(made["position_ids"].shape[1])


def stretch(made: Batch) -> None:
    """Positions of rows after the first are twice as far from each other."""
    made["position_ids"][1:] *= 2


def one_number(made: Batch) -> None:
    """The second row is one document."""
    made["documents"][-2] = 0


CASES: dict[str, tuple[Any, str, str]] = {
    "greedily": (side_by_side(greedily), GREEN, ""),
    "largest first": (side_by_side(largest_first), GREEN, ""),
    "one row": (side_by_side(in_one), ABSENT, ""),
    "dropped": (side_by_side(dropping), RED, "stands 0 times"),
    "doubled": (side_by_side(doubling), RED, "stands 2 times"),
    "one stream": (side_by_side(one_stream), YELLOW, "ends in another of"),
    "labels of one row": (side_by_side(greedily, shift_second), RED, "in row 1 "),
    "positions that go on": (side_by_side(largest_first, go_on), RED, "positions from"),
    "one number": (side_by_side(largest_first, one_number), RED, "documents, which begin at"),
}


@pytest.mark.parametrize("name", CASES)
def test_documents_in_several_rows_stay_whole(name: str) -> None:
    """Behavior: packing of any order passes; what loses, doubles, cuts or mislabels a document is found."""
    collate, outcome, message = CASES[name]
    found = check(subject(collate), only=FINDERS)
    assert light(subject(collate), *FINDERS) == outcome, found
    assert not message or message in found.findings[0].message


@pytest.mark.parametrize(("change", "outcome"), [(go_on, GREEN), (stretch, RED), (shift_second, RED)])
def test_positions_that_go_on_are_right_where_distances_alone_are_read(change: Any, outcome: str) -> None:
    """Behavior: of a model that reads distances in one document positions may go on; other distances are found."""
    asked = subject(side_by_side(largest_first, change), model=Distances, loss=loss_of_distances)
    assert light(asked, *FINDERS) == outcome


def test_other_checks_of_packing_take_several_rows() -> None:
    """Behavior: what is asked of one row is asked of several."""
    report = check(subject(side_by_side(greedily)), only=("packing",))
    assert not report.findings
    assert {"packing.packed", "packing.rows", "packing.borders", "packing.conservation"} <= set(report.passed)
