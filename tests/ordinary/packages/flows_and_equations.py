"""Differential equations and normalizing flows of torchdiffeq, torchsde, torchcde, nflows and normflows."""

from typing import Any

import normflows as nf
import torch
import torchcde
import torchsde
from nflows.distributions.normal import StandardNormal
from nflows.flows.base import Flow
from nflows.transforms.autoregressive import MaskedAffineAutoregressiveTransform
from nflows.transforms.base import CompositeTransform
from nflows.transforms.permutations import ReversePermutation
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it
from torchdiffeq import odeint, odeint_adjoint

from andon.verify import Subject

SOURCE = "torchdiffeq 0.2.5, torchsde 0.2.6, torchcde 0.2.5, nflows 0.14, normflows 1.7.3"


# -------------------------------------------------------------------------------------------------- torchdiffeq


class Spiral(nn.Module):
    """The right-hand side of the library's first example: a small network of the cubes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, mean=0, std=0.1)
                nn.init.constant_(layer.bias, val=0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - the solver gives the time
        """The derivative."""
        return self.net(y**3)


def spirals(generator: torch.Generator) -> dict[str, Tensor]:
    """Starts, times, and where the true spiral is then, (time, batch, 2)."""
    start = torch.tensor([2.0, 0.0]) + 0.5 * torch.randn(8, 2, generator=generator)
    times = torch.linspace(0, 0.3, 4)
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    with torch.no_grad():
        path = odeint(lambda _, y: y**3 @ matrix, start.clamp(-2, 2), times, method="rk4", options={"step_size": 0.02})
    return {"start": start.clamp(-2, 2), "times": times, "path": path}


def ode_adjoint() -> Subject:
    """Gradients by the adjoint method, an adaptive solver, the mean absolute error."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        found = odeint_adjoint(model, batch["start"], batch["times"], rtol=1e-3, atol=1e-4)
        return (found - batch["path"]).abs().mean()

    return Subject(
        name="torchdiffeq-adjoint",
        model=Spiral,
        batch=spirals,
        loss=loss,
        optimizer=lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3),
        causal=False,
    )


class ContinuousFlow(nn.Module):
    """A continuous normalizing flow: density is carried along, its change the trace of the derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 32)
        self.outer = nn.Linear(32, 2)

    def velocity(self, t: Tensor, z: Tensor) -> Tensor:
        """Where the points go."""
        return self.outer(torch.tanh(self.inner(torch.cat([z, t.expand(len(z), 1)], dim=1))))

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The velocity, and minus its divergence."""
        with torch.enable_grad():
            z = state[0] if state[0].requires_grad else state[0].detach().requires_grad_()
            moved = self.velocity(t, z)
            rows = [torch.autograd.grad(moved[:, k].sum(), z, create_graph=True)[0][:, k] for k in range(2)]
        return moved, -torch.stack(rows).sum(0)


def continuous_flow() -> Subject:
    """Negative log-likelihood of two clusters under a flow integrated by fixed Runge-Kutta steps."""

    def batch(generator: torch.Generator) -> Tensor:
        side = torch.randint(0, 2, (32, 1), generator=generator) * 2 - 1
        return side * torch.tensor([1.5, 0.5]) + 0.3 * torch.randn(32, 2, generator=generator)

    def loss(model: Any, points: Tensor) -> Tensor:
        times = torch.tensor([1.0, 0.0])
        z, change = odeint(model, (points, torch.zeros(len(points))), times, method="rk4", options={"step_size": 0.25})
        base = torch.distributions.Normal(0.0, 1.0).log_prob(z[-1]).sum(1)
        return -(base - change[-1]).mean()

    return Subject(
        name="torchdiffeq-continuous-flow",
        model=ContinuousFlow,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        causal=False,
    )


# ------------------------------------------------------------------------------------------- torchsde and torchcde


class Motion(nn.Module):
    """An Ito equation with diagonal noise, whose drift and size of noise are learned."""

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self) -> None:
        super().__init__()
        self.drift = nn.Sequential(nn.Linear(1, 16), nn.Softplus(), nn.Linear(16, 1))
        self.log_noise = nn.Parameter(torch.tensor(-1.0))

    def f(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - the solver gives the time
        """The drift."""
        return self.drift(y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - the solver gives the time
        """The noise."""
        return self.log_noise.exp().expand_as(y)


def sde_moments() -> Subject:
    """An Ornstein-Uhlenbeck process fitted by the mean and spread of simulated paths, noise drawn anew each time."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        paths = [1.0 + torch.randn(128, 1, generator=generator) * 0.1]
        for _ in range(8):
            noise = torch.randn(128, 1, generator=generator)
            paths.append(paths[-1] - 0.125 * 1.5 * paths[-1] + 0.3 * 0.125**0.5 * noise)
        return paths[0], torch.stack(paths[::2])

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        start, observed = batch
        paths = torchsde.sdeint(model, start, torch.linspace(0, 1, 5), dt=0.125, method="euler")
        means = (paths.mean(1) - observed.mean(1)).square().mean()
        return means + (paths.std(1) - observed.std(1)).square().mean()

    return Subject(
        name="torchsde-moments",
        model=Motion,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        causal=False,
    )


class Controlled(nn.Module):
    """A neural controlled equation, driven by a path through irregular observations."""

    def __init__(self, channels: int = 3, hidden: int = 8) -> None:
        super().__init__()
        self.hidden, self.channels = hidden, channels
        self.initial = nn.Linear(channels, hidden)
        self.field = nn.Sequential(nn.Linear(hidden, 32), nn.ReLU(), nn.Linear(32, hidden * channels), nn.Tanh())
        self.readout = nn.Linear(hidden, 1)

    def forward(self, coefficients: Tensor) -> Tensor:
        """One logit a row."""
        path = torchcde.CubicSpline(coefficients)
        start = self.initial(path.evaluate(path.interval[0]))
        states = torchcde.cdeint(
            X=path, func=self.derivative, z0=start, t=path.interval, adjoint=False, method="rk4",
            options={"step_size": 1.0},
        )  # fmt: skip
        return self.readout(states[:, -1]).squeeze(-1)

    def derivative(self, t: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002 - the solver gives the time
        """A matrix for each row (hidden, channels)."""
        return self.field(z).view(*z.shape[:-1], self.hidden, self.channels)


def cde_spirals() -> Subject:
    """Clockwise or not? Binary cross-entropy on a spiral's direction."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        way = torch.randint(0, 2, (12,), generator=generator).float()
        times = torch.linspace(0, 6.28, 10)
        angle = times * (2 * way - 1).unsqueeze(1) + 6.28 * torch.rand(12, 1, generator=generator)
        seen = torch.stack([times.expand(12, -1), angle.cos(), angle.sin()], dim=-1)
        seen[..., 1:] += 0.05 * torch.randn(12, 10, 2, generator=generator)
        return torchcde.hermite_cubic_coefficients_with_backward_differences(seen), way

    return Subject(
        name="torchcde-spirals",
        model=Controlled,
        batch=batch,
        loss=lambda model, batch: F.binary_cross_entropy_with_logits(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        causal=False,
    )


# -------------------------------------------------------------------------------------------- nflows and normflows


def crescents(generator: torch.Generator) -> Tensor:
    """Points of two half moons."""
    angle = 3.1416 * torch.rand(64, generator=generator)
    lower = torch.rand(64, generator=generator) < 0.5
    x = torch.where(lower, 1 - angle.cos(), angle.cos())
    y = torch.where(lower, 0.5 - angle.sin(), angle.sin())
    return torch.stack([x, y], dim=1) + 0.1 * torch.randn(64, 2, generator=generator)


def masked_autoregressive() -> Subject:
    """A masked autoregressive flow of nflows: minus the mean log-density."""

    def build() -> nn.Module:
        steps: list[nn.Module] = []
        for _ in range(3):
            steps.append(ReversePermutation(features=2))
            steps.append(MaskedAffineAutoregressiveTransform(features=2, hidden_features=16))
        return Flow(CompositeTransform(steps), StandardNormal(shape=[2]))

    return Subject(
        name="nflows-maf",
        model=build,
        batch=crescents,
        loss=lambda model, points: -model.log_prob(inputs=points).mean(),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


def real_nvp() -> Subject:
    """Real NVP of normflows: coupled layers whose last starts at zero, a base whose mean and scale are learned."""

    def build() -> nn.Module:
        flows: list[nn.Module] = []
        for _ in range(4):
            flows.append(nf.flows.AffineCouplingBlock(nf.nets.MLP([1, 16, 16, 2], init_zeros=True)))
            flows.append(nf.flows.Permute(2, mode="swap"))
        return nf.NormalizingFlow(nf.distributions.base.DiagGaussian(2), flows)

    return Subject(
        name="normflows-real-nvp",
        model=build,
        batch=crescents,
        loss=lambda model, points: model.forward_kld(points),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-5),
        causal=False,
    )


def spline_to_target() -> Subject:
    """Splines of normflows fitted to a density that is known: the reverse divergence, on samples of the flow."""

    def build() -> nn.Module:
        flows: list[nn.Module] = []
        for _ in range(2):
            flows.append(nf.flows.AutoregressiveRationalQuadraticSpline(2, 1, 16))
            flows.append(nf.flows.LULinearPermute(2))
        base = nf.distributions.base.DiagGaussian(2, trainable=False)
        return nf.NormalizingFlow(base, flows, nf.distributions.target.TwoMoons())

    return Subject(
        name="normflows-splines-reverse",
        model=build,
        batch=lambda generator: torch.randn(1, generator=generator),
        loss=lambda model, _: model.reverse_kld(64),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


SUBJECTS = {
    "torchdiffeq-adjoint": ode_adjoint,
    "torchdiffeq-continuous-flow": continuous_flow,
    "torchsde-moments": sde_moments,
    "torchcde-spirals": cde_spirals,
    "nflows-maf": masked_autoregressive,
    "normflows-real-nvp": real_nvp,
    "normflows-splines-reverse": spline_to_target,
}
