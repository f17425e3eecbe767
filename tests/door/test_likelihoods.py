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


def ragged(x: Tensor, _: Tensor) -> Tensor:
    """Two texts of six and of one frame, whose padding is set to zero."""
    inside = torch.arange(6)[:, None] < torch.tensor([6, 1])
    frames = torch.stack((x, x), 1) * inside[..., None]
    return functional.ctc_loss(frames, torch.tensor([[1], [2]]), torch.tensor([6, 1]), torch.tensor([1, 1]))


def paired(x: Tensor, _: Tensor) -> Tensor:
    """Rows and columns are pairs: the softmax may be over either."""
    return functional.nll_loss(x[:4], torch.tensor([2, 0, 3, 1]))


@pytest.mark.parametrize(
    ("made", "scores", "light"),
    [
        (ragged, functional.log_softmax, None),
        (ragged, functional.softmax, CheckFailed),
        (paired, lambda x, _: x[:4].log_softmax(0), None),
        (lambda x, y: functional.nll_loss(x[:4], y[:4]), lambda x, _: x[:4].log_softmax(0), CheckFailed),
    ],
    ids=["ragged", "ragged probabilities", "pairs", "no pairs"],
)
def test_padding_is_not_asked_and_pairs_may_be_of_either_axis(made: Call, scores: Call, light: Light) -> None:
    """Behavior: frames behind a text's end say nothing; a class of its own for each row makes rows classes."""
    seen = recorded(
        nn.Linear(3, 4), lambda call, x, y: made(scores(call(x), 1), y), torch.randn(6, 3), torch.arange(6) % 3
    )
    assert light is light_of(check_classes, seen)
