"""Rows of ctc_loss that cannot be aligned, in a captured micro-batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.alignments import check_impossible
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
PADDED = torch.tensor([[1, 2, 2], [1, 1, 0]])  # of two rows, which need 4 and 3 frames
SIZES = torch.tensor([3, 2])


def loss_of(targets: Tensor, frames: list[int]) -> Call:
    """The script's, of two rows of up to six frames."""

    def made(call: Call, x: Tensor) -> Tensor:
        given = call(x).log_softmax(-1)
        return functional.ctc_loss(given, targets, torch.tensor(frames), SIZES, zero_infinity=True)

    return made


@pytest.mark.parametrize("targets", [PADDED, PADDED.flatten()[:5]], ids=["padded", "concatenated"])
@pytest.mark.parametrize(("frames", "light"), [([4, 3], None), ([6, 6], None), ([4, 2], Unusual), ([3, 6], Unusual)])
def test_rows_have_frames_for_their_targets(targets: Tensor, frames: list[int], light: Light) -> None:
    """Behavior: a row without a frame for each target, and for a blank between two alike, is yellow."""
    seen = recorded(nn.Linear(3, 4), loss_of(targets, frames), torch.randn(6, 2, 3))
    assert light is light_of(check_impossible, seen)


def test_other_losses_are_not_asked() -> None:
    """Behavior: a loss without alignments is not applicable."""
    seen = recorded(nn.Linear(3, 4), lambda call, x: call(x).square().mean(), torch.randn(6, 3))
    assert light_of(check_impossible, seen) is NotApplicable
