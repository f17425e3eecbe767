"""Models made ready: the tolerance follows what is inside."""

import pytest
import torch
from torch import Tensor, nn

from andon.verify.observation.perturb import coarsest_eps, rounding_tolerance
from andon.verify.observation.tolerances import ROUNDING
from tests.verify.small import Small, batch, small

pytestmark = pytest.mark.tier2


class Deep(Small):
    """So many blocks in a row."""

    def __init__(self, blocks: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))
        self.to(dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        for block in self.blocks:
            x_BTD = x_BTD + block(x_BTD)
        return self.head(x_BTD)


@pytest.mark.parametrize(("blocks", "times"), [(2, 1), (8, 1), (32, 2), (128, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_adds_up_over_blocks(blocks: int, times: float, dtype: torch.dtype) -> None:
    """Behavior: shallow models have the dtype's tolerance, deeper ones one that grows as the root of their blocks."""
    data, model = batch(torch.Generator()), Deep(blocks, dtype)
    assert ROUNDING[dtype] == coarsest_eps(small(), model, data)
    assert times * ROUNDING[dtype] == pytest.approx(rounding_tolerance(small(), model, data))
