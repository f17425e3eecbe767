"""gpytorch's exact Gaussian process, fitted to a noisy wave."""

import gpytorch
import torch

torch.manual_seed(0)
x = torch.linspace(0, 1, 60)
y = torch.sin(6.28 * x) + 0.1 * torch.randn(60)


class Process(gpytorch.models.ExactGP):
    """A constant mean, a smooth covariance."""

    def __init__(self, likelihood: gpytorch.likelihoods.Likelihood) -> None:
        super().__init__(x, y, likelihood)
        self.mean = gpytorch.means.ConstantMean()
        self.covariance = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

    def forward(self, places: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean(places), self.covariance(places))


likelihood = gpytorch.likelihoods.GaussianLikelihood()
model = Process(likelihood)
marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
for step in range(50):
    optimizer.zero_grad()
    loss = -marginal(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
