"""Samples that a model draws around what it computes, and the gradient that passes through them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from andon.door.questions.latents import check_sample
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Call, Light, light_of, recorded

pytestmark = pytest.mark.tier2
Draw = Callable[[Tensor, Tensor], Tensor]


class Auto(nn.Module):
    """A variational autoencoder in two layers, which draws as it is told."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw, self.encoder, self.decoder = draw, nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What came of x, and the mean and the logarithm of the deviation that it was drawn with."""
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        return self.decoder(self.draw(mean, log_std)), mean, log_std


def drawn(mean: Tensor, log_std: Tensor) -> Tensor:
    """The reparameterized sample."""
    return mean + torch.randn_like(mean) * log_std.exp()


def from_torch(mean: Tensor, log_std: Tensor) -> Tensor:
    """By torch.distributions."""
    return torch.distributions.Normal(mean, log_std.exp()).rsample()


def straight_through(mean: Tensor, log_std: Tensor) -> Tensor:
    """A sign forward, the sample backward."""
    soft = drawn(mean, log_std)
    return soft + (soft.sign() - soft.detach())


def detached(mean: Tensor, log_std: Tensor) -> Tensor:
    """Its gradient stops."""
    return drawn(mean, log_std).detach()


def plain(mean: Tensor, _: Tensor) -> Tensor:
    """No noise, and a gradient that stops."""
    return mean.detach()


def evidence(call: Call, x: Tensor) -> Tensor:
    """Reconstruction, and how far the sample's distribution is from a normal one."""
    made, mean, log_std = call(x)
    return (made - x).square().mean() + 0.1 * (mean.square() + (2 * log_std).exp() - 2 * log_std).mean()


def reconstruction(call: Call, x: Tensor) -> Tensor:
    """Of the decoder alone: what drew the sample is somebody else's to train."""
    return (call(x)[0] - x).square().mean()


@pytest.mark.parametrize(
    ("draw", "loss_of", "light"),
    [
        (drawn, evidence, None),
        (from_torch, evidence, None),
        (straight_through, evidence, None),
        (detached, reconstruction, None),
        (plain, evidence, NotApplicable),
        (detached, evidence, Unusual),
    ],
)
def test_a_sample_passes_its_gradient_on(draw: Draw, loss_of: Call, light: Light) -> None:
    """Behavior: a detached sample is yellow where its makers learn by other terms alone; a generator's is none's."""
    torch.manual_seed(0)
    captured = recorded(Auto(draw), loss_of, torch.randn(8, 6))
    assert light is light_of(check_sample, captured)
