"""Velocities that a flow's model learns."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from andon.door.questions.velocity import check_velocity
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


class Field(nn.Module):
    """A velocity at a place and a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, 2) and (B,) to (B, 2)."""
        return self.layer(torch.cat((x, time[:, None]), 1))


def flow(*, back: bool = False, scale: float = 1.0, noised: bool = True) -> Captured:
    """A step on the way from noise to data, with time in other units."""
    torch.manual_seed(0)
    data, noise, time = torch.randn(8, 2) + 3, torch.randn(8, 2), torch.rand(8)
    share = (1 - time if back else time)[:, None]
    x = (1 - share) * noise + share * data if noised else data + time[:, None]

    def loss_of(call: Call, x: Tensor, time: Tensor, data: Tensor, noise: Tensor) -> Tensor:
        return (call(x, time) - (data - noise)).square().mean()

    return recorded(Field(), loss_of, x, scale * time, data, noise)


@pytest.mark.parametrize(
    ("captured", "light"),
    [
        (flow, None),
        (lambda: flow(scale=1000.0), None),
        (lambda: flow(back=True), Unusual),
        (lambda: flow(back=True, scale=1000.0), Unusual),
        (lambda: flow(noised=False), NotApplicable),
    ],
    ids=["noise to data", "in other units", "the wrong end", "the same in other units", "no way"],
)
def test_a_velocity_points_where_its_input_goes(captured: Callable[[], Captured], light: Light) -> None:
    """Behavior: the opposite is yellow; not asked where the input is no way from one part of the loss to another."""
    assert light is light_of(check_velocity, captured())
