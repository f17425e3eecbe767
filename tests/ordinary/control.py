"""Acting: policy gradients, actor and critic, PPO, DQN, SAC, a decision transformer, imitation, a world model."""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from andon.verify import Subject

SOURCE = "written for this corpus"
OBS, ACTIONS = 4, 3


def orthogonal(layer: nn.Linear, gain: float = 2**0.5) -> nn.Linear:
    """Orthogonal weights, no bias at first."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


# ------------------------------------------------------------------------------------------------------------ REINFORCE
class Episodes(NamedTuple):
    """Steps of several episodes, what was done, and the discounted sum of rewards from there on."""

    obs: Tensor
    act: Tensor
    returns: Tensor


def episodes(generator: torch.Generator, gamma: float = 0.95) -> Episodes:
    """Action 0 is rewarded where the first number is positive, action 1 where it is not."""
    obs = torch.randn(4, 12, OBS, generator=generator)
    act = torch.randint(ACTIONS, (4, 12), generator=generator)
    reward, returns = (act == (obs[..., 0] <= 0)).float(), torch.zeros(4, 12)
    running = torch.zeros(4)
    for t in reversed(range(12)):
        running = reward[:, t] + gamma * running
        returns[:, t] = running
    return Episodes(obs.flatten(0, 1), act.flatten(), returns.flatten())


def reinforce(policy: nn.Module, batch: Episodes) -> Tensor:
    """The mean of the returns is the baseline; a bonus for entropy."""
    pi = Categorical(logits=policy(batch.obs))
    weight = (batch.returns - batch.returns.mean()) / (batch.returns.std() + 1e-8)
    return -(pi.log_prob(batch.act) * weight).mean() - 0.01 * pi.entropy().mean()


# ----------------------------------------------------------------------------------------------------- actor and critic
class SharedActorCritic(nn.Module):
    """One body, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(OBS, 32), nn.ReLU())
        self.action_head, self.value_head = nn.Linear(32, ACTIONS), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of actions, values."""
        x = self.body(x)
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x).squeeze(-1)


def actor_critic_loss(model: nn.Module, batch: Episodes) -> Tensor:
    """The advantage is a number to the actor."""
    probs, values = model(batch.obs)
    advantage = batch.returns - values.detach()
    actor = -(Categorical(probs).log_prob(batch.act) * advantage).mean()
    return actor + F.smooth_l1_loss(values, batch.returns)


# ------------------------------------------------------------------------------------------------- PPO, continuous acts
class GaussianAgent(nn.Module):
    """Actor and critic apart; a spread that does not depend on the state."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Sequential(orthogonal(nn.Linear(OBS, 32)), nn.Tanh(), orthogonal(nn.Linear(32, 1), 1.0))
        self.actor_mean = nn.Sequential(orthogonal(nn.Linear(OBS, 32)), nn.Tanh(), orthogonal(nn.Linear(32, 2), 0.01))
        self.actor_logstd = nn.Parameter(torch.zeros(1, 2))

    def forward(self, x: Tensor) -> tuple[Normal, Tensor]:
        """Actions' distribution, values."""
        mean = self.actor_mean(x)
        return Normal(mean, self.actor_logstd.expand_as(mean).exp()), self.critic(x).squeeze(-1)


def trajectories(generator: torch.Generator, gamma: float = 0.99, lam: float = 0.95) -> dict[str, Tensor]:
    """Written by an agent at its start; some episodes end within. Advantages by GAE."""
    T, N = 12, 4
    obs, act = torch.randn(T, N, OBS, generator=generator), torch.randn(T, N, 2, generator=generator)
    log_prob = Normal(0.0, 1.0).log_prob(act).sum(-1)
    reward = -0.1 * (act - obs[..., :2]).square().sum(-1)
    done = (torch.rand(T, N, generator=generator) < 0.1).float()
    values = 0.3 * torch.randn(T + 1, N, generator=generator)
    advantage, running = torch.zeros(T, N), torch.zeros(N)
    for t in reversed(range(T)):
        delta = reward[t] + gamma * values[t + 1] * (1 - done[t]) - values[t]
        advantage[t] = running = delta + gamma * lam * (1 - done[t]) * running
    flat = {"obs": obs, "act": act, "log_prob": log_prob, "advantage": advantage, "returns": advantage + values[:-1]}
    return {key: value.flatten(0, 1) for key, value in flat.items()}


def ppo(agent: nn.Module, mb: dict[str, Tensor], clip: float = 0.2) -> Tensor:
    """CleanRL's."""
    dist, value = agent(mb["obs"])
    ratio = (dist.log_prob(mb["act"]).sum(1) - mb["log_prob"]).exp()
    adv = (mb["advantage"] - mb["advantage"].mean()) / (mb["advantage"].std() + 1e-8)
    pg_loss = torch.max(-adv * ratio, -adv * torch.clamp(ratio, 1 - clip, 1 + clip)).mean()
    return pg_loss + 0.5 * 0.5 * (value - mb["returns"]).pow(2).mean() - 0.01 * dist.entropy().sum(1).mean()


# ------------------------------------------------------------------------------------------------------------------ DQN
class DuelingDQN(nn.Module):
    """Values and advantages; a target network that follows now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.ModuleDict(
            {
                "body": nn.Sequential(nn.Linear(OBS, 32), nn.ReLU()),
                "value": nn.Linear(32, 1),
                "advantage": nn.Linear(32, ACTIONS),
            }
        )
        self.target = copy.deepcopy(self.online)
        self.target.requires_grad_(False)
        self.updates = 0

    def forward(self, obs: Tensor, target: bool = False) -> Tensor:
        """Q of each action."""
        net: Any = self.target if target else self.online
        h = net["body"](obs)
        advantage = net["advantage"](h)
        return net["value"](h) + advantage - advantage.mean(-1, keepdim=True)


def transitions(generator: torch.Generator) -> dict[str, Tensor]:
    """From a replay memory, with the weights of prioritized sampling."""
    obs, following = torch.randn(2, 32, OBS, generator=generator)
    action = torch.randint(ACTIONS, (32,), generator=generator)
    return {
        "obs": obs, "action": action, "reward": (action == 0).float() * obs[:, 0], "next_obs": following,
        "done": (torch.rand(32, generator=generator) < 0.1).float(),
        "weight": 0.5 + 0.5 * torch.rand(32, generator=generator),
    }  # fmt: skip


def double_dqn(model: nn.Module, batch: dict[str, Tensor], gamma: float = 0.99) -> Tensor:
    """The online net chooses, the target net judges; Huber's loss."""
    q = model(batch["obs"]).gather(1, batch["action"][:, None]).squeeze(1)
    with torch.no_grad():
        best = model(batch["next_obs"]).argmax(1, keepdim=True)
        later = model(batch["next_obs"], target=True).gather(1, best).squeeze(1)
        goal = batch["reward"] + gamma * (1 - batch["done"]) * later
    return (batch["weight"] * F.smooth_l1_loss(q, goal, reduction="none")).mean()


def dqn_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """Every tenth update the target is copied."""
    optimizer.zero_grad()
    loss = torch.stack([double_dqn(model, batch) for batch in batches]).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.online.parameters(), 10.0)
    optimizer.step()
    model.updates += 1
    if model.updates % 10 == 0:
        model.target.load_state_dict(model.online.state_dict())
    return {"loss": loss.item()}


# ------------------------------------------------------------------------------------------------------------------ SAC
class SoftActorCritic(nn.Module):
    """A squashed actor, two critics and their slow copies, a temperature."""

    def __init__(self) -> None:
        super().__init__()
        critic = lambda: nn.Sequential(nn.Linear(OBS + 1, 32), nn.ReLU(), nn.Linear(32, 1))  # noqa: E731
        self.actor = nn.Sequential(nn.Linear(OBS, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critics = nn.ModuleList([critic(), critic()])
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.zeros(()))

    def act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """A sample and its log probability, with the change of variables of tanh."""
        mean, log_std = self.actor(obs).chunk(2, -1)
        raw = Normal(mean, log_std.clamp(-5, 2).exp()).rsample()
        log_prob = Normal(mean, log_std.clamp(-5, 2).exp()).log_prob(raw)
        log_prob = log_prob - 2 * (torch.log(torch.tensor(2.0)) - raw - F.softplus(-2 * raw))
        return torch.tanh(raw), log_prob.squeeze(-1)

    def q(self, nets: Any, obs: Tensor, action: Tensor) -> Tensor:
        """(2, B)."""
        return torch.stack([net(torch.cat([obs, action], -1)).squeeze(-1) for net in nets])


def sac_loss(model: Any, batch: dict[str, Tensor], gamma: float = 0.99, wanted_entropy: float = -1.0) -> Tensor:
    """Three losses in one sum; each is held where it belongs to another."""
    alpha = model.log_alpha.exp().detach()
    with torch.no_grad():
        action, log_prob = model.act(batch["next_obs"])
        later = model.q(model.targets, batch["next_obs"], action).amin(0) - alpha * log_prob
        goal = batch["reward"] + gamma * (1 - batch["done"]) * later
    critic_loss = (model.q(model.critics, batch["obs"], batch["action"]) - goal).square().mean(1).sum()
    action, log_prob = model.act(batch["obs"])
    held = [lambda x, net=net: functional_held(net, x) for net in model.critics]
    actor_loss = (alpha * log_prob - model.q(held, batch["obs"], action).amin(0)).mean()
    alpha_loss = -(model.log_alpha.exp() * (log_prob.detach() + wanted_entropy)).mean()
    return critic_loss + actor_loss + alpha_loss


def functional_held(net: nn.Module, x: Tensor) -> Tensor:
    """The critic as a function whose weights do not learn."""
    return torch.func.functional_call(net, {name: p.detach() for name, p in net.named_parameters()}, (x,))


def continuous(generator: torch.Generator) -> dict[str, Tensor]:
    """Transitions with one action between -1 and 1."""
    batch = transitions(generator)
    action = 2 * torch.rand(32, 1, generator=generator) - 1
    return batch | {"action": action, "reward": -(action[:, 0] - torch.tanh(batch["obs"][:, 0])).square()}


def sac_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """The update, and Polyak's average of the critics."""
    optimizer.zero_grad()
    loss = torch.stack([sac_loss(model, batch) for batch in batches]).mean()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for slow, fast in zip(model.targets.parameters(), model.critics.parameters(), strict=True):
            slow.mul_(0.995).add_(0.005 * fast)
    return {"loss": loss.item()}


# ------------------------------------------------------------------------------------------------- decision transformer
class DecisionTransformer(nn.Module):
    """Return, state, action, return, ...: what to do is read off the states."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.ret, self.state, self.action = nn.Linear(1, width), nn.Linear(OBS, width), nn.Embedding(ACTIONS, width)
        self.time, self.norm = nn.Embedding(20, width), nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, 2, 48, 0.0, "gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.act = nn.Linear(width, ACTIONS)

    def forward(self, returns: Tensor, states: Tensor, actions: Tensor, steps: Tensor) -> Tensor:
        """Logits of actions (B, T, A)."""
        time = self.time(steps)
        parts = [self.ret(returns[..., None]) + time, self.state(states) + time, self.action(actions) + time]
        x = self.norm(torch.stack(parts, 2).flatten(1, 2))
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        return self.act(self.body(x, mask, is_causal=True)[:, 1::3])


def demonstrations(generator: torch.Generator) -> dict[str, Tensor]:
    """Pieces of episodes, padded at their ends."""
    states = torch.randn(4, 8, OBS, generator=generator)
    lengths = torch.tensor([8, 5, 8, 6])
    start = torch.randint(12, (4, 1), generator=generator)
    return {
        "returns": torch.rand(4, 8, generator=generator).flip(1).cumsum(1).flip(1), "states": states,
        "actions": states[..., :ACTIONS].argmax(-1), "steps": start + torch.arange(8),
        "mask": torch.arange(8) < lengths[:, None],
    }  # fmt: skip


def decision_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of what was done, at real steps."""
    logits = model(batch["returns"], batch["states"], batch["actions"], batch["steps"])
    return F.cross_entropy(logits[batch["mask"]], batch["actions"][batch["mask"]])


SUBJECTS = {
    "reinforce": lambda: Subject(
        name="reinforce", model=lambda: nn.Sequential(nn.Linear(OBS, 32), nn.Tanh(), nn.Linear(32, ACTIONS)),
        batch=episodes, loss=reinforce, causal=False,
        optimizer=lambda model: torch.optim.RMSprop(model.parameters(), lr=3e-3),
    ),
    "actor-critic": lambda: Subject(
        name="actor-critic", model=SharedActorCritic, batch=episodes, loss=actor_critic_loss, causal=False
    ),
    "ppo": lambda: Subject(
        name="ppo", model=GaussianAgent, batch=trajectories, loss=ppo, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-4, eps=1e-5),
    ),
    "dqn": lambda: Subject(
        name="dqn", model=DuelingDQN, batch=transitions, loss=double_dqn, causal=False, train_step=dqn_step,
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3),
    ),
    "sac": lambda: Subject(
        name="sac", model=SoftActorCritic, batch=continuous, loss=sac_loss, causal=False, train_step=sac_step,
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3),
    ),
    "decision transformer": lambda: Subject(
        name="decision transformer", model=DecisionTransformer, batch=demonstrations, loss=decision_loss
    ),
}  # fmt: skip
