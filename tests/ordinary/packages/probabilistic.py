"""Probabilistic models of gpytorch and Pyro: marginal likelihoods and evidence bounds."""

from typing import Any

import gpytorch
import pyro
import pyro.distributions as dist
import torch
from gpytorch.distributions import MultivariateNormal
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "gpytorch 1.15.2, pyro-ppl 1.9.2"

pyro.settings.set(module_local_params=True)  # parameters belong to their modules, not to one global store


# ------------------------------------------------------------------------------------------------------- gpytorch

GRID = torch.linspace(0, 1, 24)


class Exact(gpytorch.models.ExactGP):
    """An exact Gaussian process with a radial kernel, on a fixed grid."""

    def __init__(self) -> None:
        super().__init__(GRID, torch.zeros(24), gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

    def forward(self, x: Tensor) -> MultivariateNormal:
        """The prior at these places."""
        return MultivariateNormal(self.mean_module(x), self.covar_module(x))


def exact_process() -> Subject:
    """Minus the exact marginal likelihood of what was observed on the grid."""

    def batch(generator: torch.Generator) -> Tensor:
        phase = torch.rand(1, generator=generator)
        return torch.sin(6.28 * (GRID + 0.2 * phase)) + 0.1 * torch.randn(24, generator=generator)

    def loss(model: Any, observed: Tensor) -> Tensor:
        model.set_train_data(GRID, observed, strict=False)
        likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
        return -likelihood(model(GRID), observed)

    return Subject(
        name="gpytorch-exact",
        model=Exact,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.05),
        causal=False,
    )


class Sparse(gpytorch.models.ApproximateGP):
    """A variational process with learned inducing points, and its likelihood."""

    def __init__(self) -> None:
        points = torch.linspace(-1, 1, 8).unsqueeze(-1)
        posterior = gpytorch.variational.CholeskyVariationalDistribution(8)
        super().__init__(
            gpytorch.variational.VariationalStrategy(self, points, posterior, learn_inducing_locations=True)
        )
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5))
        self.likelihood = gpytorch.likelihoods.BernoulliLikelihood()

    def forward(self, x: Tensor) -> MultivariateNormal:
        """The prior."""
        return MultivariateNormal(self.mean_module(x), self.covar_module(x))


def sparse_classifier() -> Subject:
    """Minus the evidence bound of a classifier, on minibatches of a data set of 500."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(32, 1, generator=generator) * 2 - 1
        return x, (torch.sin(5 * x.squeeze(-1)) > 0).float()

    def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        bound = gpytorch.mlls.VariationalELBO(model.likelihood, model, num_data=500)
        return -bound(model(batch[0]), batch[1])

    return Subject(
        name="gpytorch-sparse-classifier",
        model=Sparse,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        causal=False,
    )


# ----------------------------------------------------------------------------------------------------------- pyro


class Vae(nn.Module):
    """A variational autoencoder as in Pyro's tutorial."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.Softplus(), nn.Linear(32, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 32), nn.Softplus(), nn.Linear(32, 16))

    def model(self, x: Tensor) -> None:
        """Latents to pixels."""
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Pixels to latents."""
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            mean, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("latent", dist.Normal(mean, log_scale.exp()).to_event(1))


def vae() -> Subject:
    """Minus Pyro's differentiable evidence bound, a row."""

    def batch(generator: torch.Generator) -> Tensor:
        row = torch.randint(0, 4, (24, 1, 1), generator=generator)
        picture = (torch.arange(4).view(1, 4, 1) == row).float().expand(-1, 4, 4)
        flipped = torch.rand(24, 1, 1, generator=generator) < 0.5
        return torch.where(flipped, picture.transpose(1, 2), picture).reshape(24, 16)

    def loss(model: Any, x: Tensor) -> Tensor:
        return TraceMeanField_ELBO().differentiable_loss(model.model, model.guide, x) / len(x)

    return Subject(
        name="pyro-vae",
        model=Vae,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.95, 0.999)),
        causal=False,
    )


class Regression(PyroModule):
    """Bayesian regression: weights are sampled from their prior."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](3, 1)
        self.linear.weight = PyroSample(dist.Normal(torch.zeros(1, 3), torch.ones(1, 3)).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(torch.zeros(1), 10 * torch.ones(1)).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean, and the observation."""
        sigma = pyro.sample("sigma", dist.LogNormal(torch.tensor(-1.0), torch.tensor(0.5)))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("seen", dist.Normal(mean, sigma), obs=y)
        return mean


class Inference(nn.Module):
    """The model and its guide, whose means and scales are what is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.regression = Regression()
        self.guide = AutoNormal(self.regression, init_scale=0.1)
        with torch.no_grad():
            self.guide(torch.zeros(2, 3), torch.zeros(2))  # its parameters are made by its first call


def bayesian_regression() -> Subject:
    """Stochastic variational inference with a guide of independent normals."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(40, 3, generator=generator)
        return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.7 + 0.3 * torch.randn(40, generator=generator)

    def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        return Trace_ELBO().differentiable_loss(model.regression, model.guide, *batch) / len(batch[0])

    return Subject(
        name="pyro-regression-svi",
        model=Inference,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        causal=False,
    )


SUBJECTS = {
    "gpytorch-exact": exact_process,
    "gpytorch-sparse-classifier": sparse_classifier,
    "pyro-vae": vae,
    "pyro-regression-svi": bayesian_regression,
}
