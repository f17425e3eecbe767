"""snntorch's leaky neurons over time, with its loss of rates."""

import snntorch
import torch
from snntorch import functional
from torch import nn

torch.manual_seed(0)
labels = torch.randint(3, (192,))
data = torch.randn(3, 12)[labels] + 0.3 * torch.randn(192, 12)


class Spiking(nn.Module):
    """Two layers of neurons, through ten moments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 24), nn.Linear(24, 3)
        self.fire_1, self.fire_2 = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.fire_1.init_leaky(), self.fire_2.init_leaky()
        spikes = []
        for _ in range(10):
            spike, one = self.fire_1(self.first(x), one)
            spike, two = self.fire_2(self.second(spike), two)
            spikes.append(spike)
        return torch.stack(spikes)


model = Spiking()
loss_of = functional.ce_rate_loss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(4):
    for rows in torch.randperm(192).split(16):
        loss = loss_of(model(data[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
