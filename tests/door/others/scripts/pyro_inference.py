"""pyro's stochastic variational inference of a regression."""

import pyro
import torch
from pyro.distributions import Normal
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.nn import PyroModule, PyroSample

pyro.set_rng_seed(0)
x = torch.randn(128, 3)
y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(128)


class Regression(PyroModule):
    """Weights with a prior."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[torch.nn.Linear](3, 1)
        self.linear.weight = PyroSample(Normal(0.0, 1.0).expand([1, 3]).to_event(2))
        self.linear.bias = PyroSample(Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", Normal(mean, 0.1), obs=y)
        return mean


model = Regression()
inference = SVI(model, AutoDiagonalNormal(model), pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
for step in range(60):
    loss = inference.step(x, y)
    if step % 20 == 0:
        print(f"step {step}: loss {loss:.1f}")
