"""Straight-through estimators of codes that are rounded, or learned in a table."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.straight_through import check_straight_through
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2


class Rounded(nn.Module):
    """An autoencoder whose codes are rounded; with a table, the table's entries are learned."""

    def __init__(self, way: str, *, learned: bool = False) -> None:
        super().__init__()
        self.way, self.learned = way, learned
        self.encode, self.decode, self.table = nn.Linear(4, 3), nn.Linear(3, 4), nn.Embedding(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) to the same."""
        z = self.encode(x)
        q = self.table(z.argmax(-1)) if self.learned else z.detach().round()
        ways = {
            "detached": lambda: z + (q - z).detach(),
            "lost": lambda: z + (q - z),
            "turned": lambda: (q - z) + z,
            "half": lambda: z + 0.5 * (q - z),
            "plain": lambda: z + q,
        }
        return self.decode(ways[self.way]())


@pytest.mark.parametrize(
    ("way", "learned", "light"),
    [
        ("detached", False, None),
        ("detached", True, None),
        ("lost", False, CheckFailed),
        ("turned", False, CheckFailed),
        ("lost", True, Unusual),
        ("half", False, NotApplicable),
        ("plain", False, NotApplicable),
    ],
)
def test_a_difference_that_is_added_again_is_detached(way: str, learned: bool, light: Light) -> None:
    """Behavior: without its detach it is red, yellow where the other side is learned; part of the way is right."""
    torch.manual_seed(0)

    def loss_of(call: Call, x: Tensor) -> Tensor:
        return functional.mse_loss(call(x), x)

    assert light is light_of(
        check_straight_through, recorded(Rounded(way, learned=learned), loss_of, torch.randn(8, 4))
    )
