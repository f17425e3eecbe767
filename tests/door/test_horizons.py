"""What is to be predicted begins after what is given."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.horizons import check_horizon
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, light_of, recorded

pytestmark = pytest.mark.tier2

GIVEN, HORIZON = 8, 3


class Forecaster(nn.Module):
    """Predicts as many values of the first feature as are asked for."""

    def __init__(self, horizon: int = HORIZON) -> None:
        super().__init__()
        self.head = nn.Linear(2 * GIVEN, horizon)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) to (B, H)."""
        return self.head(x.flatten(1))


def squares(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Mean of squared differences."""
    return functional.mse_loss(call(x), y)


@pytest.mark.parametrize(("begins", "light"), [(0, None), (-1, Unusual), (-2, Unusual)])
def test_a_target_that_begins_within_its_window_is_seen(begins: int, light: type[Exception] | None) -> None:
    """Behavior: silent where the two windows join, yellow where they overlap."""
    torch.manual_seed(0)
    series = torch.randn(6, GIVEN + HORIZON, 2)
    target = series[:, GIVEN + begins : GIVEN + begins + HORIZON, 0]
    assert light == light_of(check_horizon, recorded(Forecaster(), squares, series[:, :GIVEN], target))


def test_rows_that_are_predicted_place_by_place_are_not_asked() -> None:
    """Behavior: a target as long as what is given is that one, shifted."""
    torch.manual_seed(0)
    series = torch.randn(6, GIVEN + 1, 2)
    captured = recorded(Forecaster(GIVEN), squares, series[:, :GIVEN], series[:, 1:, 0])
    with pytest.raises(NotApplicable):
        check_horizon(captured)
