"""What losses over classes are given, in a captured micro-batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.likelihoods import check_classes
from andon.verify.errors import CheckFailed, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


def ctc(x: Tensor, y: Tensor, blank: int = 3) -> Tensor:
    """Of six frames of one text."""
    return functional.ctc_loss(x.unsqueeze(1), y[None, :2], torch.tensor([6]), torch.tensor([2]), blank=blank)


def distilled(x: Tensor, _: Tensor, reduction: str = "batchmean") -> Tensor:
    """From an even distribution."""
    return functional.kl_div(x, torch.full_like(x, 0.25), reduction=reduction)


def swapped(x: Tensor, _: Tensor) -> Tensor:
    """What is learned stands as the target."""
    return functional.kl_div(torch.full_like(x, 0.25).log().detach(), x, reduction="batchmean")


def yes_or_no(x: Tensor, y: Tensor) -> Tensor:
    """Of each class."""
    return functional.binary_cross_entropy_with_logits(x.view(-1), functional.one_hot(y, 4).float().view(-1))


def over_rows(x: Tensor, _: int) -> Tensor:
    """Logarithms of probabilities over the wrong axis."""
    return x.log_softmax(0)


def raised(x: Tensor, _: int) -> Tensor:
    """Scores."""
    return x + 4


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # torch says so, too
@pytest.mark.parametrize(
    ("made", "scores", "light"),
    [
        (ctc, functional.log_softmax, None),
        (ctc, functional.softmax, CheckFailed),
        (ctc, raised, CheckFailed),
        (ctc, over_rows, CheckFailed),
        (lambda x, y: ctc(x, y, blank=1), functional.log_softmax, CheckFailed),
        (distilled, functional.log_softmax, None),
        (distilled, functional.softmax, CheckFailed),
        (distilled, over_rows, Unusual),
        (lambda x, y: distilled(x, y, reduction="mean"), functional.log_softmax, Unusual),
        (swapped, functional.softmax, Unusual),
        (yes_or_no, lambda x, _: x, None),
        (yes_or_no, lambda x, _: x.sigmoid(), CheckFailed),
    ],
)
def test_losses_over_classes_take_what_they_say(made: Call, scores: Call, light: Light) -> None:
    """Behavior: what is no logarithm, or over another axis, is red or yellow, as a blank and a second sigmoid are."""
    seen = recorded(
        nn.Linear(3, 4), lambda call, x, y: made(scores(call(x), 1), y), torch.randn(6, 3), torch.arange(6) % 3
    )
    assert light is light_of(check_classes, seen)
