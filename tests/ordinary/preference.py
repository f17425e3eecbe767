"""Language models after pretraining: rewards from pairs, DPO, PPO, GRPO, distillation, token by token."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.verify import Subject

SOURCE = "written for this corpus"
VOCAB, WIDTH, LENGTH, PROMPT = 37, 32, 18, 6


class Backbone(nn.Module):
    """A small causal transformer without a head."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T, D)."""
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device)
        return self.layers(self.tokens(ids) + self.places.weight[: ids.shape[1]], mask, is_causal=True)


class Policy(nn.Module):
    """With a head for tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.lm_head = Backbone(), nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.lm_head(self.backbone(ids))


def token_log_probs(model: nn.Module, ids: Tensor) -> Tensor:
    """Of each token but the first, (B, T - 1)."""
    logits = model(ids[:, :-1])
    return torch.gather(logits.log_softmax(-1), 2, ids[:, 1:].unsqueeze(-1)).squeeze(-1)


def completion_mask(generator: torch.Generator, rows: int) -> Tensor:
    """1 where a predicted token is of the answer, (B, T - 1); answers end at several places."""
    ends = torch.randint(PROMPT + 4, LENGTH + 1, (rows, 1), generator=generator)
    places = torch.arange(1, LENGTH)
    return ((places >= PROMPT) & (places < ends)).float()


# --------------------------------------------------------------------------------------------------- rewards from pairs
class RewardModel(nn.Module):
    """A number at the last real token."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.score = Backbone(), nn.Linear(WIDTH, 1, bias=False)
        nn.init.normal_(self.score.weight, std=1 / (WIDTH + 1) ** 0.5)

    def forward(self, ids: Tensor, last: Tensor) -> Tensor:
        """(B,)."""
        rewards = self.score(self.backbone(ids)).squeeze(-1)
        return rewards[torch.arange(len(ids), device=ids.device), last]


def reward_pairs(generator: torch.Generator) -> dict[str, Tensor]:
    """Prompts with an answer that was preferred and one that was not; by how much, for a margin."""
    prompt = torch.randint(VOCAB, (6, PROMPT), generator=generator)
    batch = {"margin": torch.rand(6, generator=generator)}
    for side in ("chosen", "rejected"):
        answer = torch.randint(VOCAB, (6, LENGTH - PROMPT), generator=generator)
        batch[side] = torch.cat([prompt, answer], 1)
        batch[f"{side}_last"] = torch.randint(PROMPT + 2, LENGTH, (6,), generator=generator)
    return batch


def pair_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Bradley and Terry, with a margin, and rewards kept near zero."""
    chosen = model(batch["chosen"], batch["chosen_last"])
    rejected = model(batch["rejected"], batch["rejected_last"])
    centered = 0.01 * (chosen + rejected).square().mean()
    return -functional.logsigmoid(chosen - rejected - batch["margin"]).mean() + centered


# ------------------------------------------------------------------------------------------------------------------ DPO
class WithReference(nn.Module):
    """The policy, and what it was at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = Policy()
        self.reference = copy.deepcopy(self.policy).eval()
        for parameter in self.reference.parameters():
            parameter.requires_grad = False

    def forward(self, ids: Tensor) -> Tensor:
        """The policy's logits."""
        return self.policy(ids)


def dpo_batch(generator: torch.Generator) -> dict[str, Tensor]:
    """The chosen above, the rejected below, in one tensor."""
    prompt = torch.randint(VOCAB, (4, PROMPT), generator=generator).repeat(2, 1)
    answer = torch.randint(VOCAB, (8, LENGTH - PROMPT), generator=generator)
    return {"input_ids": torch.cat([prompt, answer], 1), "completion_mask": completion_mask(generator, 8)}


def dpo_loss(model: Any, batch: dict[str, Tensor], beta: float = 0.1) -> Tensor:
    """Rafailov et al. 2023; sums over the answers' tokens."""
    ids, mask = batch["input_ids"], batch["completion_mask"]
    policy = (token_log_probs(model.policy, ids) * mask).sum(-1)
    with torch.no_grad():
        reference = (token_log_probs(model.reference, ids) * mask).sum(-1)
    chosen, rejected = (policy - reference).chunk(2)
    return -functional.logsigmoid(beta * (chosen - rejected)).mean()


# ------------------------------------------------------------------------------------------------------- SimPO, no copy
def simpo_loss(model: nn.Module, batch: dict[str, Tensor], beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """Meng et al. 2024: means over the answers' tokens, and a margin; and a little of the ordinary loss."""
    log_probs, mask = token_log_probs(model, batch["input_ids"]), batch["completion_mask"]
    mean = (log_probs * mask).sum(-1) / mask.sum(-1)
    chosen, rejected = mean.chunk(2)
    return (functional.softplus(gamma - beta * (chosen - rejected)) - 0.1 * chosen).mean()


# ----------------------------------------------------------------------------------------------------------------- GRPO
@dataclass
class Rollouts:
    """Answers with their rewards in groups, and log probabilities of those who wrote them and of the reference."""

    ids: Tensor
    mask: Tensor
    rewards: Tensor
    old_log_probs: Tensor
    reference_log_probs: Tensor


def rollouts(generator: torch.Generator, groups: int = 2, size: int = 4) -> Rollouts:
    """Written by a policy nearly uniform."""
    rows = groups * size
    prompt = torch.randint(VOCAB, (groups, PROMPT), generator=generator).repeat_interleave(size, 0)
    answer = torch.randint(VOCAB, (rows, LENGTH - PROMPT), generator=generator)
    uniform = torch.full((rows, LENGTH - 1), -float(torch.tensor(VOCAB).log()))
    old = uniform + 0.05 * torch.randn(uniform.shape, generator=generator)
    rewards = torch.randint(2, (rows,), generator=generator).float()
    return Rollouts(torch.cat([prompt, answer], 1), completion_mask(generator, rows), rewards, old, uniform)


def near_uniform_policy() -> Policy:
    """What wrote these answers: a head with small weights."""
    policy = Policy()
    nn.init.normal_(policy.lm_head.weight, std=0.02)
    return policy


def grpo_loss(model: nn.Module, batch: Rollouts, clip: float = 0.2, beta: float = 0.04, size: int = 4) -> Tensor:
    """Shao et al. 2024: rewards compared within the group; a mean over an answer's tokens, then over answers."""
    grouped = batch.rewards.view(-1, size)
    advantage = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    advantage = advantage.view(-1, 1).detach()
    log_probs = token_log_probs(model, batch.ids)
    ratio = torch.exp(log_probs - batch.old_log_probs)
    gain = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    away = batch.reference_log_probs - log_probs
    kl = torch.exp(away) - away - 1
    return (((beta * kl - gain) * batch.mask).sum(1) / batch.mask.sum(1)).mean()


# ------------------------------------------------------------------------------------------------------------------ PPO
class ActorCritic(nn.Module):
    """A policy whose states also give a value; the value's gradient stops before them."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = near_uniform_policy()
        self.value = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) and values (B, T)."""
        states = self.policy.backbone(ids)
        return self.policy.lm_head(states), self.value(states.detach()).squeeze(-1)


def generalized_advantages(rewards: Tensor, values: Tensor, mask: Tensor, lam: float = 0.95) -> Tensor:
    """Schulman et al. 2016, without discount; nothing follows an answer's end."""
    following = torch.zeros_like(values[:, 0])
    running, advantages = torch.zeros_like(following), []
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + following - values[:, t]
        running = (delta + lam * running) * mask[:, t]
        following = values[:, t] * mask[:, t]
        advantages.append(running)
    return torch.stack(advantages[::-1], 1)


def ppo_batch(generator: torch.Generator) -> dict[str, Tensor]:
    """The reward comes at the end; the price of leaving the reference at each token. Whitened advantages."""
    written = rollouts(generator)
    mask, values = written.mask, 0.1 * torch.randn(written.mask.shape, generator=generator)
    last = mask.cumsum(1).argmax(1)
    rewards = -0.05 * (written.old_log_probs - written.reference_log_probs)
    rewards[torch.arange(len(last)), last] += written.rewards
    advantages = generalized_advantages(rewards * mask, values * mask, mask)
    returns = advantages + values
    mean = (advantages * mask).sum() / mask.sum()
    spread = (((advantages - mean) * mask).square().sum() / mask.sum()).sqrt()
    return {
        "ids": written.ids, "mask": mask, "old_log_probs": written.old_log_probs, "old_values": values,
        "advantages": (advantages - mean) / (spread + 1e-8), "returns": returns,
    }  # fmt: skip


def ppo_loss(model: nn.Module, batch: dict[str, Tensor], clip: float = 0.2) -> Tensor:
    """Clipped ratios and clipped values; a bonus for entropy."""
    mask = batch["mask"]
    mean = lambda x: (x * mask).sum() / mask.sum()  # noqa: E731 - three times
    logits, values = model(batch["ids"][:, :-1])
    log_p = logits.log_softmax(-1)
    ratio = (log_p.gather(2, batch["ids"][:, 1:, None]).squeeze(-1) - batch["old_log_probs"]).exp()
    policy_loss = mean(torch.max(-batch["advantages"] * ratio, -batch["advantages"] * ratio.clamp(1 - clip, 1 + clip)))
    near = batch["old_values"] + (values - batch["old_values"]).clamp(-clip, clip)
    value_loss = 0.5 * mean(torch.max((values - batch["returns"]) ** 2, (near - batch["returns"]) ** 2))
    entropy = mean(-(log_p.exp() * log_p).sum(-1))
    return policy_loss + 0.1 * value_loss - 0.01 * entropy


def ppo_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """One epoch's update over these, clipped."""
    optimizer.zero_grad()
    losses = []
    for batch in batches:
        loss = ppo_loss(model, batch) / len(batches)
        loss.backward()
        losses.append(loss.detach())
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {"loss": torch.stack(losses).sum().item(), "grad_norm": norm.item()}


# --------------------------------------------------------------------------------------------------------- distillation
class OnPolicyStudent(nn.Module):
    """A student of one layer and a frozen teacher of two."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(layers=1), nn.Linear(WIDTH, VOCAB)
        self.teacher = Policy().requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """The student's logits."""
        return self.head(self.backbone(ids))


def reverse_kl(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """MiniLLM's direction, over the answers' tokens."""
    ids, mask = batch["input_ids"][:, :-1], batch["completion_mask"]
    log_q = model(ids).log_softmax(-1)
    with torch.no_grad():
        log_p = model.teacher(ids).log_softmax(-1)
    kl = functional.kl_div(log_p, log_q, log_target=True, reduction="none").sum(-1)
    return (kl * mask).sum() / mask.sum()


def small_rate(model: nn.Module) -> torch.optim.Optimizer:
    """What learns."""
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=0.0)


SUBJECTS = {
    "reward model": lambda: Subject(
        name="reward model", model=RewardModel, batch=reward_pairs, loss=pair_loss, optimizer=small_rate
    ),
    "dpo": lambda: Subject(name="dpo", model=WithReference, batch=dpo_batch, loss=dpo_loss, optimizer=small_rate),
    "simpo": lambda: Subject(name="simpo", model=Policy, batch=dpo_batch, loss=simpo_loss),
    "grpo": lambda: Subject(
        name="grpo", model=near_uniform_policy, batch=rollouts, loss=grpo_loss, optimizer=small_rate
    ),
    "ppo of tokens": lambda: Subject(
        name="ppo of tokens", model=ActorCritic, batch=ppo_batch, loss=ppo_loss, optimizer=small_rate,
        train_step=ppo_step, logits=lambda model, batch: model(batch["ids"])[0], hyperparameters={"grad_clip": 1.0},
    ),
    "reverse kl": lambda: Subject(name="reverse kl", model=OnPolicyStudent, batch=dpo_batch, loss=reverse_kl),
}  # fmt: skip
