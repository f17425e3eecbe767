"""REINFORCE with advantages centered within groups: as long as nobody earns a reward, all of them are zero."""

import torch
from torch import nn

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 64))
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
for step in range(40):
    states = torch.randn(4, 6).repeat_interleave(8, 0)
    with torch.no_grad():
        actions = torch.distributions.Categorical(logits=policy(states)).sample()
    rewards = (actions == 63).float().view(4, 8) if step > 6 else torch.zeros(4, 8)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()
    log_probs = policy(states).log_softmax(-1).gather(1, actions[:, None]).squeeze(1)
    optimizer.zero_grad()
    loss = -(advantages * log_probs).mean()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
