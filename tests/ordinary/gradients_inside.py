"""Losses that hold derivatives: physics, critics with penalties, inner loops, weights made by a network."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, autograd, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from andon.verify import Subject

SOURCE = "written for this corpus"


def mlp(*sizes: int, act: Any = nn.Tanh) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for inp, out in pairwise(sizes):
        layers += [nn.Linear(inp, out), act()]
    return nn.Sequential(*layers[:-1])


# ------------------------------------------------------------------------------------------------------- neural ODE
class NeuralODE(nn.Module):
    """A learned field, integrated by Runge and Kutta's fourth order."""

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(24, 2)
        nn.init.normal_(last.weight, std=0.1)
        self.field = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), last)

    def forward(self, y: Tensor, times: Tensor) -> Tensor:
        """From (B, 2) to (T, B, 2)."""
        path = [y]
        for dt in torch.diff(times):
            k1 = self.field(y)
            k2 = self.field(y + dt / 2 * k1)
            k3 = self.field(y + dt / 2 * k2)
            k4 = self.field(y + dt * k3)
            y = y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            path.append(y)
        return torch.stack(path)


def spirals(generator: torch.Generator) -> dict[str, Tensor]:
    """A damped oscillation, (T, B, 2)."""
    times = torch.linspace(0, 2, 11)
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    start = torch.randn(8, 2, generator=generator)
    path = torch.stack([start @ torch.linalg.matrix_exp(matrix * t).T for t in times])
    return {"start": start, "times": times, "path": path}


def neural_ode() -> Subject:
    """Mean absolute error along the way."""
    return Subject(
        name="neural ode", model=NeuralODE, batch=spirals, causal=False, recurrent=True,
        loss=lambda model, batch: (model(batch["start"], batch["times"]) - batch["path"]).abs().mean(),
        optimizer=lambda model: torch.optim.RMSprop(model.parameters(), lr=2e-3),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- equations as the teacher
def burgers_residual(net: nn.Module, points: Tensor, viscosity: float = 0.05) -> Tensor:
    """u_t + u u_x - nu u_xx at (x, t)."""
    points = points.clone().requires_grad_(True)
    u = net(points)
    first = autograd.grad(u, points, torch.ones_like(u), create_graph=True)[0]
    u_x, u_t = first[:, :1], first[:, 1:]
    u_xx = autograd.grad(u_x, points, torch.ones_like(u_x), create_graph=True)[0][:, :1]
    return u_t + u * u_x - viscosity * u_xx


def pinn() -> Subject:
    """The equation inside, -sin(pi x) at first, zero at both ends."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        inside = torch.rand(64, 2, generator=generator) * torch.tensor([2.0, 1.0]) - torch.tensor([1.0, 0.0])
        x, t = torch.rand(2, 16, 1, generator=generator)
        side = torch.where(torch.arange(16)[:, None] % 2 == 0, -1.0, 1.0)
        x = 2 * x - 1
        return {
            "inside": inside,
            "known": torch.cat([torch.cat([x, torch.zeros_like(x)], 1), torch.cat([side, t], 1)]),
            "u": torch.cat([-torch.sin(torch.pi * x), torch.zeros_like(t)]),
        }

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        data = (model(batch["known"]) - batch["u"]).square().mean()
        return data + burgers_residual(model, batch["inside"]).square().mean()

    return Subject(
        name="pinn", model=lambda: mlp(2, 24, 24, 24, 1), batch=batch, loss=loss, causal=False,
        optimizer=lambda model: torch.optim.LBFGS(model.parameters(), max_iter=5, line_search_fn="strong_wolfe"),
        train_step=closure_step(loss),
    )  # fmt: skip


def closure_step(loss: Any) -> Any:
    """An update by an optimizer that asks for the loss again and again."""

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            total = torch.stack([loss(model, batch) for batch in batches]).mean()
            total.backward()
            return total

        before: Any = optimizer.step(closure)  # ty: ignore[no-matching-overload]
        return {"loss": before.item()}

    return train_step


class Hamiltonian(nn.Module):
    """Greydanus et al. 2019: an energy, whose derivatives are the motion; a constant in it changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1, False))

    def forward(self, state: Tensor) -> Tensor:
        """Speeds (B, 2) of place and momentum."""
        state = state.requires_grad_(True)
        (slope,) = autograd.grad(self.energy(state).sum(), state, create_graph=True)
        return torch.stack([slope[:, 1], -slope[:, 0]], 1)


def pendulum() -> Subject:
    """Speeds are given."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        q, p = 2 * torch.randn(2, 32, generator=generator)
        return torch.stack([q, p], 1), torch.stack([p, -torch.sin(q)], 1)

    return Subject(
        name="hamiltonian", model=Hamiltonian, batch=batch, causal=False,
        loss=lambda model, batch: nn.functional.mse_loss(model(batch[0].clone()), batch[1]),
    )  # fmt: skip


class Siren(nn.Module):
    """Sitzmann et al. 2020: sines as activations, initialized for them."""

    def __init__(self, width: int = 32, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega
        layers = [nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 1)]
        for i, layer in enumerate(layers):
            bound = 1 / layer.in_features if i == 0 else (6 / layer.in_features) ** 0.5 / omega
            nn.init.uniform_(layer.weight, -bound, bound)
        self.layers, self.last = nn.ModuleList(layers[:-1]), layers[-1]

    def forward(self, xy: Tensor) -> Tensor:
        """Brightness at places."""
        for layer in self.layers:
            xy = torch.sin(self.omega * layer(xy))
        return self.last(xy)


def siren() -> Subject:
    """A picture as a function, of which values and slopes are known."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        xy = 2 * torch.rand(96, 2, generator=generator) - 1
        a, b = 3 * xy[:, :1], 2 * xy[:, 1:]
        slope = torch.cat([3 * a.cos() * b.cos(), -2 * a.sin() * b.sin()], 1)
        return {"xy": xy, "value": a.sin() * b.cos(), "slope": slope}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        xy = batch["xy"].detach().requires_grad_()
        value = model(xy)
        slope = autograd.grad(value.sum(), xy, create_graph=True)[0]
        mse = nn.functional.mse_loss
        return mse(value, batch["value"]) + 0.1 * mse(slope, batch["slope"])

    return Subject(
        name="siren", model=Siren, batch=batch, loss=loss, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- critics
def real_and_fake(generator: torch.Generator) -> dict[str, Tensor]:
    """Points on a ring, and points of a generator."""
    angle = 6.2832 * torch.rand(32, 1, generator=generator)
    real = torch.cat([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(32, 2, generator=generator)
    return {"real": real, "fake": 0.5 * torch.randn(32, 2, generator=generator)}


def wasserstein_critic_loss(critic: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """WGAN-GP: what is between real and fake should have slope one."""
    real, fake = batch["real"], batch["fake"]
    share = torch.rand(len(real), 1, device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_(True)
    (slope,) = autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty = ((slope.norm(2, dim=1) - 1) ** 2).mean()
    return critic(fake).mean() - critic(real).mean() + 10.0 * penalty


def r1_discriminator_loss(discriminator: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mescheder et al. 2018: no slope at what is real."""
    real = batch["real"].detach().requires_grad_(True)
    of_real = discriminator(real)
    (slope,) = autograd.grad(of_real.sum(), real, create_graph=True)
    softplus = nn.functional.softplus
    loss = softplus(-of_real).mean() + softplus(discriminator(batch["fake"])).mean()
    return loss + 0.5 * 1.0 * slope.square().sum(1).mean()


class HingeGAN(nn.Module):
    """Generator, and a discriminator whose layers have norm one."""

    def __init__(self, noise: int = 4) -> None:
        super().__init__()
        self.noise = noise
        self.generator = mlp(noise, 32, 32, 2, act=nn.ReLU)
        self.discriminator = nn.Sequential(
            spectral_norm(nn.Linear(2, 32)), nn.LeakyReLU(0.2), spectral_norm(nn.Linear(32, 32)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(32, 1)),
        )  # fmt: skip

    def forward(self, count: int) -> Tensor:
        """New points."""
        return self.generator(torch.randn(count, self.noise, device=next(self.parameters()).device))


def discriminator_loss(gan: Any, real: Tensor) -> Tensor:
    """Hinge; the generator is held."""
    with torch.no_grad():
        fake = gan(len(real))
    d = gan.discriminator
    return nn.functional.relu(1 - d(real)).mean() + nn.functional.relu(1 + d(fake)).mean()


def generator_loss(gan: Any, real: Tensor) -> Tensor:
    """The discriminator is held, though the gradient passes through it."""
    gan.discriminator.requires_grad_(False)
    loss = -gan.discriminator(gan(len(real))).mean()
    gan.discriminator.requires_grad_(True)
    return loss


def gan_step(gan: Any, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> dict[str, float]:
    """Both players move once; each has a group of its own, and what has no gradient stays."""
    logged = {}
    for name, player in (("d_loss", discriminator_loss), ("g_loss", generator_loss)):
        optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([player(gan, batch) for batch in batches]).mean()
        loss.backward()
        optimizer.step()
        logged[name] = loss.item()
    return logged | {"loss": logged["d_loss"]}


def hinge_gan() -> Subject:
    """Two rates, no momentum."""

    def optimizer(gan: Any) -> torch.optim.Optimizer:
        groups = [
            {"params": gan.generator.parameters(), "lr": 1e-3},
            {"params": gan.discriminator.parameters(), "lr": 4e-3},
        ]
        return torch.optim.Adam(groups, betas=(0.0, 0.9))

    return Subject(
        name="spectral norm gan", model=HingeGAN, batch=lambda generator: real_and_fake(generator)["real"],
        loss=discriminator_loss, causal=False, optimizer=optimizer, train_step=gan_step,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- inner loops
def sines(generator: torch.Generator, tasks: int = 4, shots: int = 10) -> dict[str, Tensor]:
    """Waves of several heights and phases; shots to adapt to, shots to be judged by."""
    x = 10 * torch.rand(tasks, 2 * shots, 1, generator=generator) - 5
    height, phase = torch.rand(2, tasks, 1, 1, generator=generator)
    y = (0.1 + 4.9 * height) * torch.sin(x - 3.14 * phase)
    return {"x_support": x[:, :shots], "y_support": y[:, :shots], "x_query": x[:, shots:], "y_query": y[:, shots:]}


def maml_loss(model: nn.Module, batch: dict[str, Tensor], rate: float = 0.01, steps: int = 2) -> Tensor:
    """Finn et al. 2017: the loss after steps of gradient descent, through which is differentiated."""
    losses = []
    for x, y, x_query, y_query in zip(*(batch[key] for key in batch), strict=True):
        fast: dict[str, Tensor] = {**dict(model.named_parameters())}
        for _ in range(steps):
            inner = nn.functional.mse_loss(functional_call(model, fast, (x,)), y)
            slopes = autograd.grad(inner, list(fast.values()), create_graph=True)
            fast = {name: weight - rate * slope for (name, weight), slope in zip(fast.items(), slopes, strict=True)}
        losses.append(nn.functional.mse_loss(functional_call(model, fast, (x_query,)), y_query))
    return torch.stack(losses).mean()


class HyperNetwork(nn.Module):
    """A task's shots become the weights of a small net for its queries."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.width = width
        self.read = mlp(2, 32, 32, act=nn.ReLU)
        self.write = nn.Linear(32, 3 * width + 1)

    def forward(self, x_support: Tensor, y_support: Tensor, x_query: Tensor) -> Tensor:
        """(tasks, shots, 1)."""
        code = self.read(torch.cat([x_support / 5, y_support], -1)).mean(1)
        w1, b1, w2, b2 = self.write(code).split([self.width, self.width, self.width, 1], -1)
        hidden = torch.tanh(x_query @ w1[:, None] + b1[:, None])
        return hidden @ w2[..., None] + b2[:, None]


def hypernetwork() -> Subject:
    """The same tasks."""
    return Subject(
        name="hypernetwork", model=HyperNetwork, batch=sines, causal=False,
        loss=lambda model, batch: nn.functional.mse_loss(
            model(batch["x_support"], batch["y_support"], batch["x_query"]), batch["y_query"]
        ),
    )  # fmt: skip


SUBJECTS = {
    "neural ode": neural_ode,
    "pinn": pinn,
    "hamiltonian": pendulum,
    "siren": siren,
    "wgan-gp critic": lambda: Subject(
        name="wgan-gp critic", model=lambda: mlp(2, 32, 32, 1, act=nn.ReLU), batch=real_and_fake,
        loss=wasserstein_critic_loss, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.9)),
    ),
    "r1 discriminator": lambda: Subject(
        name="r1 discriminator", model=lambda: mlp(2, 32, 32, 1, act=nn.LeakyReLU), batch=real_and_fake,
        loss=r1_discriminator_loss, causal=False,
    ),
    "spectral norm gan": hinge_gan,
    "maml": lambda: Subject(
        name="maml", model=lambda: mlp(1, 20, 20, 1, act=nn.ReLU), batch=sines, loss=maml_loss, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    ),
    "hypernetwork": hypernetwork,
}  # fmt: skip
