"""Subjects of other people's packages, as they are installed in the environment that imports this. None is ours."""

from collections.abc import Callable
from typing import Any

import torch

from andon.verify import subjects
from andon.verify.subject import Subject

# Sizes that are not powers of two and not multiples of each other.
SHAPE: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}


def causal(kind: str, **options: Any) -> Subject:
    """A tiny model of one of transformers' architectures; options are `causal_lm`'s, or settings."""
    import transformers

    own = {key: options.pop(key) for key in ("attention", "dtype") if key in options}
    return subjects.huggingface.causal_lm(config(getattr(transformers, kind), **options), **own)


def config(kind: Callable[..., Any], **changes: Any) -> Any:
    """A tiny configuration; grouped queries where the architecture has them."""
    made = kind(**SHAPE | changes)
    if hasattr(made, "num_key_value_heads") and "num_key_value_heads" not in changes:
        made.num_key_value_heads = 2
    return made


def gpt2(**changes: Any) -> Subject:
    """GPT-2 without dropout, which has keys of its own."""
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return causal("GPT2Config", **plain | changes)


def llama(**options: Any) -> Subject:
    """Hugging Face's Llama, grouped queries, a base that is not the default."""
    return causal("LlamaConfig", **{"rope_theta": 500.0} | options)


def lora() -> Subject:
    """PEFT's LoRA on it."""
    return subjects.peft.adapted(llama())


def dropped() -> Subject:
    """PEFT's LoRA with dropout."""
    return subjects.peft.adapted(llama(), lora_dropout=0.2)


def trained(**arguments: Any) -> Subject:
    """Trainer on it, with dropout."""
    import transformers

    return subjects.trainer.trained(config(transformers.LlamaConfig, attention_dropout=0.1), **arguments)


HUGGING_FACE: dict[str, Callable[[], Subject]] = {
    "llama": llama,
    "llama-eager": lambda: llama(attention="eager"),
    "llama-tied": lambda: llama(tie_word_embeddings=True),
    "llama-bf16": lambda: llama(dtype=torch.bfloat16),
    "llama-dropout": lambda: llama(attention_dropout=0.1),
    "gpt2": gpt2,
    "qwen2": lambda: causal("Qwen2Config"),
    "mistral": lambda: causal("MistralConfig", sliding_window=8),
    "gemma": lambda: causal("GemmaConfig", head_dim=12),
    "lora": lora,
    "lora-dropout": dropped,
    "trainer": trained,
}
LITGPT: dict[str, Callable[[], Subject]] = {
    "litgpt": lambda: subjects.litgpt.gpt(rope_base=500, length=40),  # more tokens than a chunk of its loss
    "litgpt-neox": lambda: subjects.litgpt.gpt(
        norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP", bias=True, parallel_residual=True, n_query_groups=4
    ),
    "litgpt-lora": lambda: subjects.litgpt.with_lora(subjects.litgpt.gpt(rope_base=500)),
}
SUBJECTS = HUGGING_FACE | LITGPT
# The interpreter's name in tests.bench.environments to what it runs.
ENVIRONMENTS = {"third_party": tuple(HUGGING_FACE), "litgpt": tuple(LITGPT)}
# What these packages are known for, and is left out: subject to check to the reason.
MEANS = "Trainer's evaluation is a mean of batches' means: transformers#24839"
DRAWS = "Trainer's evaluation makes a DataLoader, whose seed is drawn from the numbers that dropout uses"
ROUNDS = "Gemma keeps a factor in a buffer of torch's default dtype: built under bfloat16, it stays rounded"
KNOWN: dict[str, dict[str, str]] = {
    "gemma": {"structure.state": ROUNDS},
    "trainer": {
        "evaluation.mean": MEANS,
        "evaluation.cut": MEANS,
        "evaluation.traces": DRAWS,
        "evaluation.trajectory": DRAWS,
    },
}


def unknown(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Findings of a job; that it died is one."""
    if result["error"]:
        return [{"check": "error", "message": result["error"], "mistake": True}]
    return result["findings"]
