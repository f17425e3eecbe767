"""A Wasserstein GAN with clamped weights; the critic's loss is kept beside, and the generator steps seldom."""

import torch
from torch import nn

torch.manual_seed(0)
generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1))
of_generator = torch.optim.RMSprop(generator.parameters(), lr=1e-3)
of_critic = torch.optim.RMSprop(critic.parameters(), lr=1e-3)
for step in range(60):
    real = torch.randn(32, 2) + 3
    with torch.no_grad():
        fake = generator(torch.randn(32, 4))
    of_critic.zero_grad()
    loss = critic(fake).mean() - critic(real).mean()
    loss.backward()
    of_critic.step()
    with torch.no_grad():
        for p in critic.parameters():
            p.clamp_(-0.05, 0.05)
    if step % 5 == 4:
        of_generator.zero_grad()
        (-critic(generator(torch.randn(32, 4))).mean()).backward()
        of_generator.step()
    print(f"{step} {loss.item():.6f}")
