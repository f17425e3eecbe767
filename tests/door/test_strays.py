"""Parameters that no module has by name."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from andon.door.records import Run
from andon.door.statements.registered import check_registered
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


class Experts(nn.Module):
    """Parts beside each other, in a list that registers them or in a plain one."""

    def __init__(self, *, plain: bool, frozen: bool = False) -> None:
        super().__init__()
        parts = [nn.Linear(4, 4).requires_grad_(not frozen) for _ in range(2)]
        self.first, self.parts = nn.Linear(4, 4), parts if plain else nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) to the same."""
        return self.first(x) + sum(part(x) for part in self.parts)


def trained(model: Experts, steps: int = 13, *, held: bool = False) -> Run:
    """Some steps, noted; the optimizer may hold the parts by itself."""
    torch.manual_seed(0)
    watching = Watching()
    optimizer = watching.optimizer(
        [*model.parameters(), *(p for each in model.parts for p in each.parameters() if held)]
    )
    for _ in range(steps):
        watching.step(optimizer, watching.call(model, torch.randn(8, 4)).square().mean())
    return watching.run


@pytest.mark.parametrize(
    ("run", "light"),
    [
        (lambda: trained(Experts(plain=False)), None),
        (lambda: trained(Experts(plain=True)), Unusual),
        (lambda: trained(Experts(plain=True), held=True), None),
        (lambda: trained(Experts(plain=True, frozen=True)), None),
        (lambda: trained(Experts(plain=True), steps=1), NotApplicable),
    ],
    ids=["registered", "in a plain list", "held", "frozen", "one step"],
)
def test_what_a_loss_reaches_is_registered_or_held(run: Callable[[], Run], light: Light) -> None:
    """Behavior: what gets gradients, has no name and is moved by nobody is yellow; a frozen helper is right."""
    assert light is light_of(check_registered, run())
