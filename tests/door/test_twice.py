"""A loss function that is called twice in one micro-batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from andon.door.questions.twice import check_twice
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


def scores(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of all rows against all, and each row's own."""
    z = call(x)
    return z[:8] @ z[8:].T, torch.arange(8)


def two_directions(call: Call, x: Tensor) -> Tensor:
    """Each row among columns, each column among rows."""
    s, y = scores(call, x)
    return (cross_entropy(s, y) + cross_entropy(s.T, y)) / 2


def one_direction(call: Call, x: Tensor) -> Tensor:
    """The transpose was forgotten."""
    s, y = scores(call, x)
    return (cross_entropy(s, y) + cross_entropy(s, y)) / 2


def smoothed(call: Call, x: Tensor) -> Tensor:
    """With other settings."""
    s, y = scores(call, x)
    return cross_entropy(s, y) + cross_entropy(s, y, label_smoothing=0.1)


def focal(call: Call, x: Tensor) -> Tensor:
    """The second call weighs the first."""
    s, y = scores(call, x)
    return ((1 - (-cross_entropy(s, y, reduction="none")).exp()) * cross_entropy(s, y, reduction="none")).mean()


def printed(call: Call, x: Tensor) -> Tensor:
    """One for the log."""
    s, y = scores(call, x)
    cross_entropy(s, y)
    return cross_entropy(s, y)


def row_by_row(call: Call, x: Tensor) -> Tensor:
    """A pass for each, some of which are the same."""
    return sum((mse_loss(call(row), row) for row in (x[:1], x[:1], x[1:2], x[2:3])), torch.zeros(()))


def all_rows_alike(call: Call, x: Tensor) -> Tensor:
    """A pass for each of two that are the same."""
    return mse_loss(call(x[:1]), x[:1]) + mse_loss(call(x[:1]), x[:1])


def each_row(call: Call, x: Tensor) -> Tensor:
    """A call for each of one pass, of which the first two are the same."""
    made, due = call(torch.cat([x[:1], x])), torch.cat([x[:1], x])
    return sum((mse_loss(a, b) for a, b in zip(made, due, strict=True)), torch.zeros(()))


@pytest.mark.parametrize(
    ("loss_of", "light"),
    [
        (two_directions, None),
        (one_direction, Unusual),
        (smoothed, None),
        (focal, None),
        (printed, NotApplicable),
        (row_by_row, NotApplicable),
        (all_rows_alike, NotApplicable),
        (each_row, None),
    ],
)
def test_a_loss_says_each_thing_once(loss_of: Call, light: Light) -> None:
    """Behavior: the same numbers twice are yellow; not with other settings, as a weight, of other passes, for a log."""
    torch.manual_seed(0)
    assert light is light_of(check_twice, recorded(nn.Linear(6, 6), loss_of, torch.randn(16, 6)))


def test_dropout_makes_two_passes_differ() -> None:
    """Behavior: of two passes under dropout, as in R-drop, each has its own loss."""

    def loss_of(call: Call, x: Tensor) -> Tensor:
        return sum((cross_entropy(call(x), torch.arange(16) % 4) for _ in range(2)), torch.zeros(()))

    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5))
    assert NotApplicable is light_of(check_twice, recorded(model, loss_of, torch.randn(16, 6)))
