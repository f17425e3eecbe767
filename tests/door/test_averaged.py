"""Losses of a batch's mean, where a mean of losses is meant."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.averaged import check_mean_first
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
ROWS = 8


def squares(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Their mean."""
    return ((call(x) - y) ** 2).mean()


def mean_of_differences(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Squared after it is taken over the rows."""
    return ((call(x) - y).mean(0) ** 2).mean()


def means(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Two of them, compared."""
    return functional.mse_loss(call(x).mean(0), y.mean(0))


def root(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean square: rows have gradients of their own."""
    return ((call(x) - y) ** 2).mean().sqrt()


def critic(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """A mean of what the model returned, weighed by nothing that differs in its gradient."""
    return call(x).mean() - y.mean()


def entropy_of_mean(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """A term of the mean beside one of each row."""
    p = call(x).softmax(-1).mean(0)
    return squares(call, x, y) + (p * p.log()).sum()


def energy(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Rows are atoms of one molecule, each with a known part."""
    return ((call(x) + y).mean(0) - 5.0).square().mean()


def norm_of_mean(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Without a gradient of its own where it is zero."""
    return (y - call(x)).mean(0).square().sum().sqrt()


@pytest.mark.parametrize(
    ("loss", "rows", "light"),
    [
        (squares, ROWS, None),
        (mean_of_differences, ROWS, Unusual),
        (means, ROWS, Unusual),
        (norm_of_mean, ROWS, Unusual),
        (root, ROWS, None),
        (energy, ROWS, None),
        (critic, ROWS, None),
        (entropy_of_mean, ROWS, None),
        (mean_of_differences, 3, NotApplicable),
    ],
)
def test_rows_have_gradients_of_their_own(loss: Call, rows: int, light: Light) -> None:
    """Behavior: a mean over the rows before the square is yellow; a constant gradient, and few rows, are not."""
    torch.manual_seed(0)
    assert light is light_of(
        check_mean_first, recorded(nn.Linear(3, 2), loss, torch.randn(rows, 3), torch.randn(rows, 2))
    )


def test_a_target_that_is_one_for_all_rows_says_nothing_of_them() -> None:
    """Behavior: not asked where what the model returns is compared with the same in each row."""
    torch.manual_seed(0)
    captured = recorded(nn.Linear(3, 2), mean_of_differences, torch.randn(ROWS, 3), torch.ones(ROWS, 2))
    assert light_of(check_mean_first, captured) is NotApplicable
