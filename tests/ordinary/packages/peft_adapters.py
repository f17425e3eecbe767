"""Adapters of PEFT on small models of transformers: the base stays as it is, little is learned."""

from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn

from andon.verify import Adapters, Subject

SOURCE = "peft 0.21.2 on transformers 5.24.0"

VOCAB, ROWS, LENGTH = 48, 4, 12
Tokens = dict[str, Tensor]


def steps_up(generator: torch.Generator) -> Tokens:
    """Rows that climb by one or two."""
    start = torch.randint(0, VOCAB, (ROWS, 1), generator=generator)
    stride = torch.randint(1, 3, (ROWS, 1), generator=generator)
    ids = (start + stride * torch.arange(LENGTH)) % VOCAB
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def own_loss(model: nn.Module, batch: Tokens) -> Tensor:
    """The base model's loss."""
    return model(**batch).loss


def learned(model: nn.Module) -> list[nn.Parameter]:
    """What an optimizer is given."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def small_llama() -> Any:
    """The base of most."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def lora() -> Subject:
    """LoRA on the attention of a Llama: the model is the base, the adapters are put on, merged and saved by PEFT."""

    def add(model: Any, rank: int, alpha: float) -> nn.Module:
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
        )
        return peft.get_peft_model(model, config)

    def merge(model: Any) -> nn.Module:
        model.merge_adapter()
        return model

    def unmerge(model: Any) -> nn.Module:
        model.unmerge_adapter()
        return model

    def load(model: Any, folder: Path) -> nn.Module:
        return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)

    return Subject(
        name="peft-lora",
        model=small_llama,
        batch=steps_up,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(learned(model), lr=2e-4),
        adapters=Adapters(
            add=add,
            merge=merge,
            unmerge=unmerge,
            save=lambda model, folder: model.save_pretrained(str(folder)),
            load=load,
        ),
    )


def lora_only() -> Subject:
    """LoRA with dropout, rank-stabilized, on all linear layers; only the adapter learns, and the head with it."""

    def build() -> nn.Module:
        config = peft.LoraConfig(
            r=4, lora_alpha=8, lora_dropout=0.05, use_rslora=True, target_modules="all-linear", bias="none",
            modules_to_save=["lm_head"], task_type="CAUSAL_LM",
        )  # fmt: skip
        return peft.get_peft_model(small_llama(), config)

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Tokens]) -> dict[str, float]:
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            loss = model(**batch).loss
            (loss / len(batches)).backward()
            total += loss.item() / len(batches)
        norm = torch.nn.utils.clip_grad_norm_(learned(model), 1.0)
        optimizer.step()
        return {"loss": total, "grad_norm": float(norm)}

    return Subject(
        name="peft-rslora-with-head",
        model=build,
        batch=steps_up,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(learned(model), lr=2e-3, weight_decay=0.0),
        train_step=train_step,
        lr_scheduler=lambda optimizer: transformers.get_cosine_schedule_with_warmup(optimizer, 5, 200),
    )


def dora() -> Subject:
    """DoRA on GPT-2's fused projection, whose weight lies the other way round."""

    def build() -> nn.Module:
        config = transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        adapter = peft.LoraConfig(
            r=4, lora_alpha=8, use_dora=True, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True
        )
        return peft.get_peft_model(transformers.GPT2LMHeadModel(config), adapter)

    return Subject(
        name="peft-dora",
        model=build,
        batch=steps_up,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(learned(model), lr=5e-3),
    )


def ia3() -> Subject:
    """(IA)3 on a T5: keys, values and the inner layer are scaled, nothing else learns."""

    def build() -> nn.Module:
        config = transformers.T5Config(
            vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
            decoder_start_token_id=0, pad_token_id=0,
        )  # fmt: skip
        adapter = peft.IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"])
        return peft.get_peft_model(transformers.T5ForConditionalGeneration(config), adapter)

    def batch(generator: torch.Generator) -> Tokens:
        ids = steps_up(generator)["input_ids"]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, :6].clone()}

    return Subject(
        name="peft-ia3",
        model=build,
        batch=batch,
        loss=own_loss,
        optimizer=lambda model: torch.optim.Adam(learned(model), lr=1e-2),
        causal=False,
    )


def vera() -> Subject:
    """VeRA: random matrices that all layers share and nobody learns, and two learned vectors per layer."""

    def build() -> nn.Module:
        adapter = peft.VeraConfig(r=16, target_modules=["q_proj", "o_proj"], d_initial=0.1, projection_prng_key=7)
        return peft.get_peft_model(small_llama(), adapter)

    return Subject(
        name="peft-vera",
        model=build,
        batch=steps_up,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(learned(model), lr=2e-2),
    )


def prompt_tuning() -> Subject:
    """Prompt tuning: four virtual tokens before each row, whose places are not counted."""

    def build() -> nn.Module:
        adapter = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        return peft.get_peft_model(small_llama(), adapter)

    return Subject(
        name="peft-prompt-tuning",
        model=build,
        batch=steps_up,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(learned(model), lr=3e-2, weight_decay=0.0),
    )


def oft() -> Subject:
    """Orthogonal fine-tuning: weights are turned, by the Cayley transform of learned skew matrices."""

    def build() -> nn.Module:
        adapter = peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj", "v_proj", "up_proj"], bias="none")
        return peft.get_peft_model(small_llama(), adapter)

    return Subject(
        name="peft-oft",
        model=build,
        batch=steps_up,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(learned(model), lr=5e-3),
    )


def adalora() -> Subject:
    """AdaLoRA: factors kept orthogonal by a term that the model adds to its loss, ranks given out as it goes."""

    def build() -> nn.Module:
        config = transformers.BertConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        adapter = peft.AdaLoraConfig(
            init_r=6, target_r=3, tinit=5, tfinal=50, deltaT=5, total_step=200, lora_alpha=12,
            target_modules=["query", "value"], task_type="SEQ_CLS",
        )  # fmt: skip
        return peft.get_peft_model(transformers.BertForSequenceClassification(config), adapter)

    def batch(generator: torch.Generator) -> Tokens:
        rows = steps_up(generator)
        return rows | {"labels": rows["input_ids"][:, 0] * 3 // VOCAB}

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Tokens]) -> dict[str, float]:
        optimizer.zero_grad()
        total = 0.0
        for each in batches:
            loss = model(**each).loss / len(batches)
            loss.backward()
            total += loss.item()
        optimizer.step()
        done = next(int(state["step"]) for state in optimizer.state.values())
        model.base_model.update_and_allocate(done)
        return {"loss": total}

    return Subject(
        name="peft-adalora",
        model=build,
        batch=batch,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(learned(model), lr=3e-3),
        train_step=train_step,
        causal=False,
    )


SUBJECTS = {
    "peft-lora": lora,
    "peft-rslora-with-head": lora_only,
    "peft-dora": dora,
    "peft-ia3": ia3,
    "peft-vera": vera,
    "peft-prompt-tuning": prompt_tuning,
    "peft-oft": oft,
    "peft-adalora": adalora,
}
