"""Subjects of released libraries, by the release that they belong to. No check, and nothing that knows a fault.

Each is what a user of that library would name: its model, adapter, loop or loader at a small size.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from andon.verify import subjects
from andon.verify.subject import Batch, Documents, Subject
from tests.third_party.subjects import causal, config, gpt2

NOISE, WORD = 0.2, 5  # share of tokens that noise replaces, and by which
PROMPT = 2  # tokens of a prompt
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(**options: Any) -> Subject:
    """Hugging Face's Llama."""
    return causal("LlamaConfig", **options)


def loader() -> Subject:
    """accelerate's prepared loader in a run over epochs."""
    return subjects.accelerate.loaded()


def overrides() -> Subject:
    """bitsandbytes' overrides for single parameters."""
    return subjects.bitsandbytes.overridden()


def layer_norm() -> Subject:
    """Liger's LayerNorm."""
    return subjects.liger.normed("layer")


def litgpt() -> Subject:
    """litgpt's GPT as its pretraining script makes it."""
    return subjects.litgpt.gpt()


def adalora() -> Subject:
    """PEFT's AdaLoRA on Llama."""
    import peft

    def configured(rank: int, alpha: float) -> Any:
        return peft.AdaLoraConfig(
            init_r=rank, target_r=rank, lora_alpha=alpha, total_step=100, target_modules=LINEAR, task_type="CAUSAL_LM"
        )

    return subjects.peft.adapted(llama(), configured)


def lora_bias() -> Subject:
    """PEFT's LoRA with a bias of its own, on a Llama with biases."""
    base = llama(attention_bias=True, mlp_bias=True)
    return subjects.peft.adapted(base, lora_bias=True, target_modules=LINEAR)


def oft() -> Subject:
    """PEFT's OFT on Llama."""
    import peft

    def configured(_rank: int, _alpha: float) -> Any:
        return peft.OFTConfig(r=0, oft_block_size=4, target_modules=LINEAR, task_type="CAUSAL_LM")

    return subjects.peft.adapted(llama(), configured)


def patterns() -> Subject:
    """PEFT's LoRA with ranks and alphas by pattern."""
    return subjects.peft.patterned(llama())


def combination() -> dict[str, Subject]:
    """PEFT's LoRA, plain and with rank-stabilized scale, merged by its weighted combination."""
    adapted = subjects.peft.adapted
    return {
        "lora": subjects.peft.combined(adapted(llama())),
        "rslora": subjects.peft.combined(adapted(llama(), use_rslora=True)),
    }


def trainer() -> Subject:
    """Trainer on Qwen2."""
    import transformers

    return subjects.trainer.trained(config(transformers.Qwen2Config))


def prompted_trainer() -> Subject:
    """Trainer on Llama, whose rows begin with a prompt that has no labels."""
    import transformers

    made = config(transformers.LlamaConfig)

    def answered(batch: Batch) -> Batch:
        return batch | {"labels": batch["labels"].index_fill(1, torch.arange(PROMPT), -100)}

    def collate(documents: Documents) -> Batch:
        return answered(subjects.huggingface.padded(documents, 0))

    subject = subjects.trainer.trained(made, collate=collate)
    plain: Any = subject.batch
    return replace(subject, batch=lambda generator: answered(plain(generator)))


def noisy_trainer() -> Subject:
    """Trainer on Llama, with examples whose noise is drawn from torch's random numbers."""
    import transformers

    def noisy(tokens: Sequence[int]) -> list[int]:
        hidden = (torch.rand(len(tokens)) < NOISE).tolist()
        return [WORD if gone else token for token, gone in zip(tokens, hidden, strict=True)]

    return subjects.trainer.trained(config(transformers.LlamaConfig), augment=noisy)


def scaled_gpt2() -> Subject:
    """GPT-2."""
    return gpt2()


def mamba2() -> Subject:
    """Mamba 2, whose sequences are longer than a chunk."""
    import transformers

    made = transformers.Mamba2Config(
        vocab_size=67, hidden_size=48, num_hidden_layers=2, num_heads=8, head_dim=12, expand=2, n_groups=1,
        state_size=8, chunk_size=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return subjects.huggingface.causal_lm(made, length=24)


def router() -> Subject:
    """Mixtral's router under its balancing loss."""
    return subjects.huggingface.router("mixtral")


def packed() -> Subject:
    """Llama on packed rows, called in each of the documented ways."""
    import transformers

    return subjects.huggingface.called(config(transformers.LlamaConfig))


def autocast() -> Subject:
    """Llama under autocast to bfloat16."""
    return subjects.under_autocast(causal("LlamaConfig", max_position_embeddings=1024))


def torchtune_lora() -> Subject:
    """torchtune's LoRA with dropout, on attention and MLP."""
    return subjects.torchtune.with_lora(dropout=0.5)


def torchtune_dropout() -> Subject:
    """torchtune's Llama with dropout in attention."""
    return subjects.torchtune.llama(attn_dropout=0.5)


def torchtune_packed() -> Subject:
    """torchtune's packed data set."""
    return subjects.torchtune.llama()
