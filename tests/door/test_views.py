"""Two passes that are to be two views of the same rows, in a captured micro-batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.targets import shown_in
from andon.door.questions.views import check_same_views
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


def pulled(one: Tensor, other: Tensor) -> Tensor:
    """Each row to its partner, and away from all others."""
    z = functional.normalize(torch.cat([one, other]), dim=1)
    scores = (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool), -9.0)
    return functional.cross_entropy(scores, torch.arange(len(z)).roll(len(one)))


def two_views(call: Call, x: Tensor) -> Tensor:
    """Each with noise of its own."""
    return pulled(call(x + torch.randn_like(x)), call(x + torch.randn_like(x)))


def one_view(call: Call, x: Tensor) -> Tensor:
    """Given twice."""
    return pulled(call(x), call(x))


def two_heads(call: Call, x: Tensor) -> Tensor:
    """A trunk that is called for each of them."""
    return call(x)[:, :2].square().mean() + call(x)[:, 2:].exp().mean()


def alone(call: Call, x: Tensor) -> Tensor:
    """One pass."""
    return call(x).square().mean()


@pytest.mark.parametrize(
    ("loss_of", "dropout", "light"),
    [
        (two_views, 0.0, None),
        (one_view, 0.0, Unusual),
        (one_view, 0.5, None),
        (two_heads, 0.0, None),
        (alone, 0.0, NotApplicable),
    ],
)
def test_two_views_differ(loss_of: Call, dropout: float, light: Light) -> None:
    """Behavior: the same rows twice are yellow; not under dropout, nor where the loss takes the passes otherwise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Dropout(dropout))
    assert light is light_of(check_same_views, recorded(model, loss_of, torch.randn(5, 6)))


def test_scores_that_are_masked_out_are_no_obstacle() -> None:
    """Behavior: the cross-entropy of pairs is shown by its gradient though each row's own score is -inf."""

    def masked(call: Call, x: Tensor) -> Tensor:
        z = call(x)
        scores = (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
        return functional.cross_entropy(scores, torch.arange(len(z)).roll(3))

    torch.manual_seed(0)
    shown = shown_in(recorded(nn.Linear(6, 4), masked, torch.randn(6, 6)))
    assert shown.targets.tolist() == [3, 4, 5, 0, 1, 2]
