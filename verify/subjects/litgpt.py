"""litgpt's GPT, with the loss, weights and rates of its own pretraining script.

A batch is what that script cuts out of its data: tokens, and the tokens one ahead.
Legend: B batch, T time, V vocab.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from litgpt import lora, pretrain
from litgpt.config import Config
from litgpt.data.base import get_sft_collate_fn
from litgpt.generate import base as generation
from litgpt.model import GPT
from litgpt.utils import chunked_cross_entropy
from torch import Tensor, nn

from andon.verify.subject import Adapters, Documents, Subject

LLAMA: dict[str, Any] = {
    "name": "llama",
    "block_size": 64,
    "padded_vocab_size": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_query_groups": 2,
    "n_embd": 32,
    "intermediate_size": 48,
    "rotary_percentage": 1.0,
    "parallel_residual": False,
    "bias": False,
    "norm_class_name": "RMSNorm",
    "mlp_class_name": "LLaMAMLP",
}
# What a configuration may say, and another valid value of it. A key at None or 0 is left alone.
ALTERED: dict[str, Callable[[Any], Any]] = {
    "norm_eps": lambda _: 1e-2,
    "rope_base": lambda value: value // 100,
    "rope_condense_ratio": lambda value: 2 * value,
    "rotary_percentage": lambda value: value / 2,
    "attention_scores_scalar": lambda value: 4 * value,
    "attention_logit_softcapping": lambda value: value / 100,
    "final_logit_softcapping": lambda value: value / 100,
    "sliding_window_size": lambda value: min(3, value),
}


class Pair(NamedTuple):
    """A batch of the pretraining script."""

    tokens: Tensor
    targets: Tensor


def gpt(config: Config | str | None = None, *, rows: int = 4, length: int = 16, **changes: Any) -> Subject:
    """A subject of a litgpt configuration, by default a small LLaMA, or of a name that litgpt knows.

    `changes` are further keys of the configuration. Random batches have `rows` rows of `length` tokens.
    """
    if isinstance(config, str):
        settled = Config.from_name(config, **changes)
    else:
        settled = dataclasses.replace(config, **changes) if config else Config(**LLAMA | changes)
    given = {key: getattr(settled, key, None) for key in ALTERED}
    return Subject(
        objective="cross_entropy",
        causal=True,
        name=f"litgpt {settled.name}",
        model=lambda: _model(settled),
        batch=lambda generator: _batch(generator, settled, rows, length),
        loss=lambda model, batch: chunked_cross_entropy(model(batch.tokens), batch.targets),
        logits=lambda model, batch: model(batch.tokens),
        collate_padded=_padded,
        generate=_generate,
        cached_logits=_decode,
        configure=lambda **new: _model(dataclasses.replace(settled, **new)),
        config_alternatives={key: ALTERED[key](value) for key, value in given.items() if value},
    )


def with_lora(subject: Subject, **options: Any) -> Subject:
    """The subject of `gpt`, with litgpt's LoRA on every projection; `options` are `lora_...` keys."""
    everywhere = dict.fromkeys(("query", "key", "value", "projection", "mlp", "head"), True)
    given = {f"lora_{part}": on for part, on in everywhere.items()} | options

    def add(base: nn.Module, rank: int, alpha: float) -> nn.Module:
        shape = {field.name: getattr(base.config, field.name) for field in dataclasses.fields(Config) if field.init}
        model = lora.GPT(lora.Config(**shape, lora_r=rank, lora_alpha=alpha, **given))
        model.load_state_dict(base.state_dict(), strict=False)
        lora.mark_only_lora_as_trainable(model)
        return model.to(next(base.parameters()).dtype)

    def merge(model: Any) -> nn.Module:
        lora.merge_lora_weights(model)
        return model

    return dataclasses.replace(subject, name=f"{subject.name} + LoRA", adapters=Adapters(add=add, merge=merge))


def rate(learning_rate: float, warmup: int, steps: int, lowest: float) -> Callable[[int], float]:
    """The pretraining script's learning rate at step 0, 1, ..."""
    return lambda step: pretrain.get_lr(learning_rate, step, warmup, steps, lowest)


def _model(config: Config) -> GPT:
    """A model as the pretraining script makes it: room for the weights, which its own function then draws."""
    fabric = Fabric(devices=1, accelerator="cpu")
    with fabric.init_module(empty_init=True):
        model = GPT(config)
    script: Any = pretrain
    if hasattr(pretrain, "initialize_weights"):
        script.initialize_weights(fabric, model, n_layer=config.n_layer, n_embd=config.n_embd)
    else:  # up to 0.2
        script.prepare_weight_initialization(model, n_layer=config.n_layer, n_embd=config.n_embd)
    return model


def _batch(generator: torch.Generator, config: Config, rows: int, length: int) -> Pair:
    tokens_BT = torch.randint(config.padded_vocab_size, (rows, length + 1), generator=generator)
    return Pair(tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous())


def _padded(documents: Documents) -> Pair:
    """By the collator of litgpt's fine-tuning, whose scripts shift its labels."""
    counts = {"raw": 0, "raw_plus_prompt_template": 0}
    samples = [(torch.tensor(list(document)), counts) for document in documents]
    rows: Any = [{"input_ids": tokens, "labels": tokens, "token_counts": counts} for tokens, counts in samples]
    batch = get_sft_collate_fn()(rows)
    return Pair(batch["input_ids"], torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100))


def _generate(model: Any, tokens_BT: Tensor, count: int) -> Tensor:
    """Greedy, a row at a time, with a cache."""
    rows = []
    for tokens_T in tokens_BT:
        model.set_kv_cache(batch_size=1, dtype=next(model.parameters()).dtype)
        rows.append(generation.generate(model, tokens_T, len(tokens_T) + count, temperature=0.0))
        model.clear_kv_cache()
    return torch.stack(rows)


def _decode(model: Any, tokens_BT: Tensor) -> Tensor:
    """Logits (B, T, V), a token at a time."""
    model.set_kv_cache(batch_size=len(tokens_BT), dtype=next(model.parameters()).dtype)
    steps = range(tokens_BT.shape[1])
    found = [model(tokens_BT[:, step : step + 1], torch.tensor([step])) for step in steps]
    model.clear_kv_cache()
    return torch.cat(found, 1)
