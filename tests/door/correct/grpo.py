"""GRPO's first update of each group: ratio 1, advantages that sum to zero, and a divergence from a reference of 0."""

import copy

import torch
from torch import nn

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))
reference = copy.deepcopy(policy).eval().requires_grad_(False)
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)


def log_probs(model, states, actions):
    """Of the actions taken."""
    return model(states).log_softmax(-1).gather(1, actions[:, None]).squeeze(1)


for step in range(40):
    states = torch.randn(4, 6).repeat_interleave(8, 0)
    with torch.no_grad():
        actions = torch.distributions.Categorical(logits=policy(states)).sample()
        due = log_probs(reference, states, actions)
    rewards = (actions == states[:, :4].argmax(1)).float().view(4, 8)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    now = log_probs(policy, states, actions)
    ratio = (now - now.detach()).exp()
    divergence = (due - now).exp() - (due - now) - 1
    loss = (-torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) + 0.04 * divergence).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.6f}")
