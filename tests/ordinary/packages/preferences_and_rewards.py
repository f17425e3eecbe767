"""Preferences with TRL and rewards with TorchRL: a frozen reference, groups of answers, targets that lag behind."""

import math
import weakref
from copy import deepcopy
from typing import Any

import torch
import transformers
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it
from torchrl.modules import MLP, ProbabilisticActor, QValueActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss, DQNLoss, SACLoss, SoftUpdate
from torchrl.objectives.value import GAE
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import selective_log_softmax

from andon.verify import Subject

SOURCE = "trl 1.16.0 on transformers 5.24.0, torchrl 0.14.1"

VOCAB, PAD, EOS = 40, 0, 1


def small_lm() -> Any:
    """A Qwen2 without dropout."""
    config = transformers.Qwen2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None,
    )  # fmt: skip
    return transformers.Qwen2ForCausalLM(config)


def drawn(generator: torch.Generator, least: int, most: int) -> list[int]:
    """Some tokens."""
    length = int(torch.randint(least, most + 1, (1,), generator=generator))
    return torch.randint(2, VOCAB, (length,), generator=generator).tolist()


# ---------------------------------------------------------------------------------------------------------- TRL


def supervised() -> Subject:
    """TRL's collator for prompts and completions: only completions have labels."""
    collate = DataCollatorForLanguageModeling(pad_token_id=PAD)

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        examples = []
        for _ in range(4):
            prompt = drawn(generator, 3, 6)
            answer = [*prompt[::-1], EOS]
            examples.append({"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)})
        return collate(examples)

    return Subject(
        name="trl-supervised",
        model=small_lm,
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0),
        pad_id=PAD,
        eos_id=EOS,
    )


class WithReference(nn.Module):
    """A policy beside the frozen copy of what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = small_lm()
        self.reference = deepcopy(self.policy).eval().requires_grad_(False)


def completion_logps(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The log-probability of each completion."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    each = selective_log_softmax(logits, batch["input_ids"][:, 1:])
    return (each * batch["completion_mask"][:, 1:]).sum(1)


def direct_preference() -> Subject:
    """DPO: chosen rows, then rejected ones, as TRL's collator stacks them; the reference is held."""
    collate = DataCollatorForPreference(pad_token_id=PAD)

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        examples = []
        for _ in range(4):
            prompt = drawn(generator, 2, 5)
            good = [*sorted(drawn(generator, 2, 5)), EOS]
            examples.append({"prompt_ids": prompt, "chosen_ids": good, "rejected_ids": [*good[:-1][::-1], EOS]})
        return collate(examples)

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        chosen, rejected = completion_logps(model.policy, batch).chunk(2)
        with torch.no_grad():
            reference_chosen, reference_rejected = completion_logps(model.reference, batch).chunk(2)
        margin = (chosen - reference_chosen) - (rejected - reference_rejected)
        return -F.logsigmoid(0.1 * margin).mean()

    return Subject(
        name="trl-dpo",
        model=WithReference,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.policy.parameters(), lr=5e-4),
    )


def group_relative() -> Subject:
    """GRPO: advantages within groups of answers, a clipped ratio to the policy that answered, a small divergence."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        prompt = torch.randint(2, VOCAB, (2, 1, 4), generator=generator).expand(2, 4, 4).reshape(8, 4)
        answer = torch.randint(2, VOCAB, (8, 6), generator=generator)
        length = torch.randint(3, 7, (8, 1), generator=generator)
        mask = (torch.arange(6) < length).long()
        reward = ((answer % 2 == 0) * mask).sum(1).float().view(2, 4)
        advantage = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)
        rows = torch.cat([prompt, answer * mask], dim=1)
        whole = torch.cat([torch.ones_like(prompt), mask], dim=1)
        return {
            "input_ids": rows,
            "attention_mask": whole,
            "completion_mask": mask,
            "advantages": advantage.flatten(),
            "old_logps": torch.full((8, 6), -math.log(VOCAB - 2)),  # answers were drawn evenly
        }

    def logps(model: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return selective_log_softmax(logits[:, 3:-1], batch["input_ids"][:, 4:])

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        now = logps(model.policy, batch)
        with torch.no_grad():
            reference = logps(model.reference, batch)
        ratio = torch.exp(now - batch["old_logps"])
        advantage = batch["advantages"].unsqueeze(1)
        gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        divergence = torch.exp(reference - now) - (reference - now) - 1
        mask = batch["completion_mask"]
        return ((-gain + 0.04 * divergence) * mask).sum() / mask.sum()

    return Subject(
        name="trl-grpo",
        model=WithReference,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.policy.parameters(), lr=2e-4),
    )


# -------------------------------------------------------------------------------------------------------- TorchRL


def transitions(generator: torch.Generator, rows: int = 32) -> TensorDict:
    """States that are pulled home, an action and what came of it."""
    state = torch.randn(rows, 3, generator=generator)
    push = torch.randint(0, 2, (rows,), generator=generator)
    after = state.clone()
    after[:, 0] += 0.5 * (2.0 * push - 1)
    done = torch.rand(rows, 1, generator=generator) < 0.1
    following = {
        "observation": after, "reward": -after[:, :1].abs(), "done": done, "terminated": done,
    }  # fmt: skip
    return TensorDict({"observation": state, "action": F.one_hot(push, 2), "next": following}, batch_size=[rows])


FOLLOWERS: weakref.WeakKeyDictionary[nn.Module, SoftUpdate] = weakref.WeakKeyDictionary()


def followed(module: Any) -> SoftUpdate:
    """What moves this module's targets; one each, as a new one would set them to the networks themselves."""
    if module not in FOLLOWERS:
        FOLLOWERS[module] = SoftUpdate(module, tau=0.05)
    return FOLLOWERS[module]


def deep_q() -> Subject:
    """Double Q-learning by TorchRL's loss, whose target network follows slowly and holds no gradient."""

    def build() -> nn.Module:
        actor = QValueActor(MLP(in_features=3, out_features=2, num_cells=[32, 32]), in_keys=["observation"],
                            spec=None, action_space="one_hot")  # fmt: skip
        module = DQNLoss(actor, action_space="one_hot", delay_value=True, double_dqn=True)
        module.make_value_estimator(gamma=0.95)
        return module

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[TensorDict]) -> dict[str, float]:
        optimizer.zero_grad()
        total = torch.stack([model(each.clone())["loss"] for each in batches]).mean()
        total.backward()
        optimizer.step()
        followed(model).step()
        return {"loss": total.item()}

    return Subject(
        name="torchrl-double-dqn",
        model=build,
        batch=transitions,
        loss=lambda model, batch: model(batch.clone())["loss"],
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3),
        train_step=train_step,
        causal=False,
    )


class Proximal(nn.Module):
    """TorchRL's clipped loss of a policy and a critic, and its generalized advantages."""

    def __init__(self) -> None:
        super().__init__()
        policy = TensorDictModule(MLP(in_features=3, out_features=2, num_cells=[32]), ["observation"], ["logits"])
        actor = ProbabilisticTensorDictSequential(
            policy,
            ProbabilisticTensorDictModule(
                ["logits"], ["action"], distribution_class=torch.distributions.Categorical, return_log_prob=True
            ),
        )
        critic = ValueOperator(MLP(in_features=3, out_features=1, num_cells=[32]), in_keys=["observation"])
        self.objective = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=0.01)
        self.advantages = GAE(gamma=0.95, lmbda=0.9, value_network=critic)


def proximal() -> Subject:
    """PPO: objective, critic and entropy added; advantages are computed from the critic and held."""

    def batch(generator: torch.Generator) -> TensorDict:
        """Four episodes of eight steps, acted by a coin."""
        states = [torch.randn(4, 3, generator=generator)]
        pushes = torch.randint(0, 2, (4, 8), generator=generator)
        for time in range(8):
            moved = states[-1].clone()
            moved[:, 0] += 0.5 * (2.0 * pushes[:, time] - 1)
            states.append(moved)
        path = torch.stack(states, dim=1)
        done = (torch.arange(8) == 7).expand(4, 8).unsqueeze(-1)
        after = path[:, 1:]
        following = {
            "observation": after, "reward": -after[..., :1].abs(), "done": done, "terminated": torch.zeros_like(done),
        }  # fmt: skip
        log_prob = torch.full((4, 8), 0.5).log()
        data = {"observation": path[:, :-1], "action": pushes, "action_log_prob": log_prob, "next": following}
        return TensorDict(data, batch_size=[4, 8])

    def loss(model: Any, batch: TensorDict) -> Tensor:
        data = batch.clone()
        with torch.no_grad():
            model.advantages(data)
        parts = model.objective(data)
        return parts["loss_objective"] + parts["loss_critic"] + parts["loss_entropy"]

    return Subject(
        name="torchrl-ppo",
        model=Proximal,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.objective.parameters(), lr=3e-3, eps=1e-5),
        causal=False,
    )


def soft_actor_critic() -> Subject:
    """SAC: actor, twin critics and temperature in one sum; each part detaches what it does not own."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP(in_features=3, out_features=2, num_cells=[32])

        def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
            loc, scale = self.net(observation).chunk(2, dim=-1)
            return loc, F.softplus(scale) + 1e-3

    class Value(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP(in_features=4, out_features=1, num_cells=[32])

        def forward(self, observation: Tensor, action: Tensor) -> Tensor:
            return self.net(torch.cat([observation, action], dim=-1))

    def build() -> nn.Module:
        actor = ProbabilisticActor(
            TensorDictModule(Split(), ["observation"], ["loc", "scale"]), in_keys=["loc", "scale"],
            distribution_class=TanhNormal, return_log_prob=True,
        )  # fmt: skip
        critic = ValueOperator(Value(), in_keys=["observation", "action"])
        module = SACLoss(actor, critic, num_qvalue_nets=2, target_entropy=-1.0, alpha_init=0.1)
        module.make_value_estimator(gamma=0.95)
        return module

    def batch(generator: torch.Generator) -> TensorDict:
        state = torch.randn(32, 3, generator=generator)
        action = torch.rand(32, 1, generator=generator) * 1.8 - 0.9
        after = torch.cat([state[:, :1] + 0.5 * action, state[:, 1:]], dim=1)
        done = torch.rand(32, 1, generator=generator) < 0.1
        following = {
            "observation": after, "reward": -after[:, :1].abs(), "done": done, "terminated": done,
        }  # fmt: skip
        return TensorDict({"observation": state, "action": action, "next": following}, batch_size=[32])

    def loss(model: Any, batch: TensorDict) -> Tensor:
        parts = model(batch.clone())
        return parts["loss_actor"] + parts["loss_qvalue"] + parts["loss_alpha"]

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[TensorDict]) -> dict[str, float]:
        optimizer.zero_grad()
        total = 0.0
        for each in batches:
            part = loss(model, each) / len(batches)
            part.backward()
            total += part.item()
        optimizer.step()
        followed(model).step()
        return {"loss": total}

    return Subject(
        name="torchrl-sac",
        model=build,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3),
        train_step=train_step,
        causal=False,
    )


SUBJECTS = {
    "trl-supervised": supervised,
    "trl-dpo": direct_preference,
    "trl-grpo": group_relative,
    "torchrl-double-dqn": deep_q,
    "torchrl-ppo": proximal,
    "torchrl-sac": soft_actor_critic,
}
