"""Rows of several documents, whose positions begin anew with them, go on, or are those of a table that ends."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.packed import check_positions
from andon.verify.access.documents import documents_key
from andon.verify.capturing.micro_batch import Captured, as_subject
from andon.verify.checks.attention import check_documents
from andon.verify.checks.packing import check_borders
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import WORDS, Asks, Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
LENGTHS = ([5, 3, 7, 9], [4, 10, 6, 4], [8, 5, 5, 6])
TIME, TABLE = 24, 8


class Reader(nn.Module):
    """Logits of words that see those before them, within one number `n` or everywhere."""

    def __init__(self, *, cuts: bool, places: bool = True) -> None:
        super().__init__()
        self.cuts, self.places = cuts, nn.Embedding(TIME, 16) if places else None
        self.embed, self.mix, self.head = nn.Embedding(WORDS, 16), nn.Linear(16, 48), nn.Linear(16, WORDS)

    def forward(self, w: Tensor, n: Tensor, p: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x = self.embed(w) + (self.places(p) if self.places is not None else 0)
        seen = torch.ones(w.shape[1], w.shape[1], dtype=torch.bool).tril()
        seen = seen & (n[:, :, None] == n[:, None]) if self.cuts else seen
        q, k, v = self.mix(x).chunk(3, -1)
        return self.head(x + functional.scaled_dot_product_attention(q, k, v, attn_mask=seen))


def numbers() -> Tensor:
    """Of the documents."""
    return torch.tensor([[n for n, size in enumerate(row) for _ in range(size)] for row in LENGTHS])


def anew() -> Tensor:
    """Positions of each document's own."""
    return torch.tensor([[place for size in row for place in range(size)] for row in LENGTHS])


def within() -> Tensor:
    """The same, of rows that are cut out of a text: each begins within a document."""
    return torch.where(numbers() == 0, anew() + 2, anew())


def through() -> Tensor:
    """Positions of the row."""
    return torch.arange(TIME).repeat(len(LENGTHS), 1)


def of_a_table() -> Tensor:
    """Positions of the row, modulo a table's size."""
    return through() % TABLE


def packed(positions: Tensor, *, cuts: bool = True, places: bool = True, crossing: bool = False) -> Captured:
    """A captured micro-batch of documents."""
    torch.manual_seed(0)
    words = torch.randint(WORDS, (len(LENGTHS), TIME))
    labels = words.roll(-1, 1)
    labels[:, -1] = -100
    if not crossing:
        labels[:, :-1][numbers().diff(dim=1) != 0] = -100

    def loss_of(call: Call, w: Tensor, n: Tensor, p: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(call(w, n, p).flatten(0, 1), labels.flatten())

    return recorded(Reader(cuts=cuts, places=places), loss_of, words, numbers(), positions, labels)


@pytest.mark.parametrize(
    ("positions", "cuts", "places", "light"),
    [
        (anew, True, True, None),
        (within, True, True, None),
        (of_a_table, True, True, Unusual),
        (through, True, True, Unusual),
        (through, True, False, None),
        (of_a_table, False, True, NotApplicable),
    ],
    ids=["anew", "rows begin within", "of a table", "through", "no places in the model", "nothing is cut"],
)
def test_documents_begin_at_one_position(
    positions: Callable[[], Tensor], cuts: bool, places: bool, light: Light
) -> None:
    """Behavior: positions that go on where attention is cut are yellow, for a model that takes them for places."""
    assert light is light_of(check_positions, packed(positions(), cuts=cuts, places=places))


@pytest.mark.parametrize("asks", [check_documents, check_borders])
@pytest.mark.parametrize(
    ("positions", "cuts", "light"),
    [(of_a_table, True, None), (of_a_table, False, NotApplicable), (anew, False, CheckFailed)],
    ids=["cut elsewhere", "not cut", "anew"],
)
def test_a_table_that_ends_is_no_border(asks: Asks, positions: Callable[[], Tensor], cuts: bool, light: Light) -> None:
    """Behavior: documents are told by where attention is cut, or by positions that begin anew after any number."""
    crossing = asks is check_borders and light is CheckFailed
    assert light is light_of(asks, as_subject(packed(positions(), cuts=cuts, crossing=crossing)))


def test_documents_are_what_cuts_attention() -> None:
    """Behavior: a part that comes in runs numbers documents where attention is seen to be cut, else with positions."""
    for cuts, positions, key in ((True, through, "n"), (False, through, None), (False, anew, "n")):
        captured = packed(positions(), cuts=cuts)
        assert key == documents_key(as_subject(captured), captured.parts)


class Alike(nn.Module):
    """A reader of documents that begin where positions do."""

    def __init__(self, *, cuts: bool) -> None:
        super().__init__()
        self.reader = Reader(cuts=cuts)

    def forward(self, w: Tensor, p: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.reader(w, (p == 0).cumsum(1), p)


def test_documents_of_one_size_are_told_by_their_targets_or_by_attention() -> None:
    """Behavior: positions that begin anew after one number are borders where no target, or no attention, crosses."""

    def loss_of(call: Call, w: Tensor, p: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(call(w, p).flatten(0, 1), labels.flatten())

    words = torch.randint(WORDS, (3, TIME))
    crossing = words.roll(-1, 1)
    inside = crossing.masked_fill(of_a_table() == TABLE - 1, -100)
    for cuts, labels, light in (
        (True, crossing, CheckFailed),
        (False, inside, None),
        (False, crossing, NotApplicable),
    ):
        captured = recorded(Alike(cuts=cuts), loss_of, words, of_a_table(), labels)
        assert light is light_of(check_borders, as_subject(captured))
