"""Mixtures of experts and recurrent language models of transformers."""

from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "transformers 5.24.0"

VOCAB, ROWS, LENGTH = 53, 4, 16


def periodic(generator: torch.Generator, length: int = LENGTH) -> Tensor:
    """Rows that repeat a random motif of four tokens."""
    motif = torch.randint(0, VOCAB, (ROWS, 4), generator=generator)
    return motif.repeat(1, -(-length // 4))[:, :length]


def labeled(generator: torch.Generator) -> dict[str, Tensor]:
    """What the library's models take: labels under their own tokens."""
    tokens = periodic(generator)
    return {"input_ids": tokens, "labels": tokens.clone()}


def mixtral() -> Subject:
    """Mixtral, two of four experts a token, the router's balancing loss added by the model."""
    config = transformers.MixtralConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, output_router_logits=True,
        router_aux_loss_coef=0.02, max_position_embeddings=64,
    )  # fmt: skip

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        optimizer.zero_grad()
        logged = 0.0
        for batch in batches:
            loss = model(**batch).loss / len(batches)
            loss.backward()
            logged += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": logged}

    return Subject(
        name="transformers-mixtral",
        model=lambda: transformers.MixtralForCausalLM(config),
        batch=labeled,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1),
        train_step=train_step,
        mixture_of_experts=True,
    )


def qwen2_moe() -> Subject:
    """Qwen2-MoE: routed experts beside a shared one, a dense first layer, the balancing loss by hand."""
    config = transformers.Qwen2MoeConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, moe_intermediate_size=24,
        shared_expert_intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0], max_position_embeddings=64,
    )  # fmt: skip

    def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        output = model(input_ids=inputs, output_router_logits=True)
        prediction = F.nll_loss(output.logits.log_softmax(-1).transpose(1, 2), targets)
        chances = torch.cat([each for each in output.router_logits if each is not None]).softmax(-1)
        chosen = F.one_hot(chances.topk(2, dim=-1).indices, config.num_experts).float().mean(dim=(0, 1))
        balance = config.num_experts * (chosen * chances.mean(0)).sum()
        return prediction + 0.01 * balance

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = periodic(generator, LENGTH + 1)
        return rows[:, :-1], rows[:, 1:]

    return Subject(
        name="transformers-qwen2-moe",
        model=lambda: transformers.Qwen2MoeForCausalLM(config),
        batch=batch,
        loss=loss,
        mixture_of_experts=True,
    )


def mamba() -> Subject:
    """Mamba, tied, with A and D kept out of weight decay."""
    config = transformers.MambaConfig(
        vocab_size=VOCAB, hidden_size=24, state_size=8, num_hidden_layers=2, time_step_rank=4, use_cache=False
    )

    def optimizer(model: Any) -> torch.optim.Optimizer:
        plain = ("A_log", "mixer.D", "norm", "bias")
        decayed = [p for n, p in model.named_parameters() if not any(part in n for part in plain)]
        others = [p for n, p in model.named_parameters() if any(part in n for part in plain)]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.95))

    return Subject(
        name="transformers-mamba",
        model=lambda: transformers.MambaForCausalLM(config),
        batch=labeled,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=optimizer,
        recurrent=True,
    )


def mamba2() -> Subject:
    """Mamba-2 in chunks of eight, on a bare tensor of tokens."""
    config = transformers.Mamba2Config(
        vocab_size=VOCAB, hidden_size=16, state_size=8, num_hidden_layers=2, num_heads=4, head_dim=8, n_groups=1,
        chunk_size=8, expand=2, use_cache=False,
    )  # fmt: skip
    return Subject(
        name="transformers-mamba2",
        model=lambda: transformers.Mamba2ForCausalLM(config),
        batch=periodic,
        loss=lambda model, tokens: model(input_ids=tokens, labels=tokens).loss,
        recurrent=True,
    )


def rwkv() -> Subject:
    """RWKV-4: time mixing and channel mixing, no attention at all."""
    config = transformers.RwkvConfig(
        vocab_size=VOCAB, context_length=32, hidden_size=24, attention_hidden_size=24, intermediate_size=48,
        num_hidden_layers=2, use_cache=False,
    )  # fmt: skip
    return Subject(
        name="transformers-rwkv",
        model=lambda: transformers.RwkvForCausalLM(config),
        batch=labeled,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=6e-3, betas=(0.9, 0.99)),
        recurrent=True,
    )


SUBJECTS = {
    "transformers-mixtral": mixtral,
    "transformers-qwen2-moe": qwen2_moe,
    "transformers-mamba": mamba,
    "transformers-mamba2": mamba2,
    "transformers-rwkv": rwkv,
}
