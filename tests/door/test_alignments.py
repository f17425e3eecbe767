"""Rows of ctc_loss that cannot be aligned, in a captured micro-batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.alignments import check_impossible, check_read
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


class Listener(nn.Module):
    """Frames (B, T, 3) to every second one, of a part of each row, which attend to each other."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part, self.head = part, nn.Conv1d(3, 4, 3, stride=2, padding=1)

    def lengths(self, frames: Tensor) -> Tensor:
        """That are said to be left."""
        return (((frames - 1) // 2 + 1) * self.part).long()

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Logarithms of probabilities (T, B, 4)."""
        x = self.head(x.mT).mT
        real = torch.arange(x.shape[1])[None] < self.lengths(frames)[:, None]
        return (x * real[..., None]).log_softmax(-1).transpose(0, 1)


@pytest.mark.parametrize("silence", [0.0, -4.0])
@pytest.mark.parametrize(("part", "light"), [(1.0, None), (0.5, Unusual)])
def test_rows_are_read_to_their_end(part: float, silence: float, light: Light) -> None:
    """Behavior: lengths of half the frames are yellow; padding after a row's end, whatever it is, is not read."""
    torch.manual_seed(0)
    frames, model = torch.tensor([24, 20, 12]), Listener(part)
    x = torch.randn(3, 32, 3).masked_fill((torch.arange(32)[None] >= frames[:, None])[..., None], silence)

    def loss_of(call: Call, x: Tensor) -> Tensor:
        targets = torch.tensor([[1, 2], [2, 3], [1, 3]])
        return functional.ctc_loss(call(x, frames), targets, model.lengths(frames), torch.tensor([2, 2, 2]))

    assert light is light_of(check_read, recorded(model, loss_of, x))
