"""What is put in the place of a tensor, and the gradient that the tensor is to have."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from andon.door.questions.straight_through import check_straight_through
from andon.verify.errors import CheckFailed, NotApplicable
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
Put = Callable[[Tensor, Tensor], Tensor]


class Rounding(nn.Module):
    """An autoencoder whose latents are exchanged for what is made of them, as it is told."""

    def __init__(self, put: Put, quantize: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.put, self.quantize, self.encoder, self.decoder = put, quantize, nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) to the same."""
        z = self.encoder(x)
        return self.decoder(self.put(z, self.quantize(z)))


def nearest(z: Tensor) -> Tensor:
    """One of four codes for each row."""
    codes = torch.eye(4)
    return codes[torch.cdist(z.detach(), codes).argmin(1)]


def under_no_grad(z: Tensor, q: Tensor) -> Tensor:
    """The same as a detached difference."""
    with torch.no_grad():
        less = q - z
    return z + less


def in_place(z: Tensor, q: Tensor) -> Tensor:
    """The tensor is another one when it is added."""
    less = q - z
    return z.mul_(2) + less


def added_in_place(z: Tensor, q: Tensor) -> Tensor:
    """The difference takes the sum."""
    less = q - z
    less += z
    return less


PUTS = [
    (lambda z, q: z + (q - z).detach(), None),
    (lambda z, q: (q - z).detach() + z, None),
    (under_no_grad, None),
    (lambda z, q: z + (q - z), CheckFailed),
    (lambda z, q: q - z + z, CheckFailed),
    (lambda z, q: torch.add(z, torch.sub(q, z)), CheckFailed),
    (added_in_place, CheckFailed),
    (lambda z, q: torch.add(z, q - z, alpha=2), NotApplicable),
    (lambda z, q: z + 0.5 * (q - z), NotApplicable),
    (lambda z, q: z + nn.functional.dropout(q - z, 0.0), NotApplicable),
    (lambda z, q: z + (q - z.clone()), NotApplicable),
    (lambda z, q: z.detach() + (q - z.detach()), NotApplicable),
    (in_place, NotApplicable),
    (lambda z, _: z + 1, NotApplicable),
]


@pytest.mark.parametrize(("put", "light"), PUTS, ids=range(len(PUTS)))
@pytest.mark.parametrize("quantize", [nearest, torch.round])
def test_what_is_put_in_the_place_of_a_tensor_leaves_its_gradient(
    put: Put, quantize: Callable[[Tensor], Tensor], light: Light
) -> None:
    """Behavior: a difference that is not detached is red; with a factor, a copy or no gradient it is not asked."""
    torch.manual_seed(0)
    model = Rounding(put, quantize)
    captured = recorded(model, lambda call, x: (call(x) - x).square().mean(), torch.randn(5, 6))
    assert light is light_of(check_straight_through, captured)


@pytest.mark.parametrize("quantize", [torch.tanh, lambda z: z - z.mean(0)], ids=["smooth", "centered"])
def test_what_is_computed_of_the_tensor_has_a_gradient_of_its_own(quantize: Callable[[Tensor], Tensor]) -> None:
    """Behavior: a branch less its input, added again, passes its gradient on."""
    model = Rounding(lambda z, q: z + (q - z), quantize)
    captured = recorded(model, lambda call, x: (call(x) - x).square().mean(), torch.randn(5, 6))
    assert light_of(check_straight_through, captured) is None


def test_a_mean_that_is_taken_away_and_added_again_cancels_as_it_is_meant() -> None:
    """Behavior: a tensor that is made of what it is added to loses nothing."""

    def loss_of(call: Call, x: Tensor) -> Tensor:
        made = call(x)
        mean = made.mean(0)
        return (made - mean + mean).square().mean()

    assert light_of(check_straight_through, recorded(nn.Linear(6, 4), loss_of, torch.randn(5, 6))) is None


@pytest.mark.parametrize(("used", "light"), [(True, CheckFailed), (False, None)])
def test_a_sum_outside_of_the_model_is_seen_where_the_loss_takes_it(used: bool, light: Light) -> None:
    """Behavior: red where the script itself makes it, silent where it is for a log."""

    def loss_of(call: Call, x: Tensor) -> Tensor:
        made = call(x)
        hard = made + (nearest(made) - made)
        return ((hard if used else made) * x[:, :4]).mean() + made.square().mean() + 0 * hard.detach().mean()

    assert light is light_of(check_straight_through, recorded(nn.Linear(6, 4), loss_of, torch.randn(5, 6)))


def test_the_line_of_the_model_is_said() -> None:
    """Behavior: the message names where the sum stands."""
    model = Rounding(PUTS[3][0], nearest)
    captured = recorded(model, lambda call, x: (call(x) - x).square().mean(), torch.randn(5, 6))
    with pytest.raises(CheckFailed, match=r"test_straight_through\.py:\d+"):
        check_straight_through(captured)
