"""Causal language models of transformers, small, trained as its examples and the usual scripts train them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "transformers 5.24.0"

VOCAB, ROWS, LENGTH = 61, 4, 16
PAD, BOS, EOS = 0, 1, 2


def counting(generator: torch.Generator, rows: int = ROWS, length: int = LENGTH, vocab: int = VOCAB) -> Tensor:
    """Sequences that count upward by their own stride; ids below 3 are left to padding and marks."""
    start = torch.randint(0, vocab - 3, (rows, 1), generator=generator)
    stride = torch.randint(1, 4, (rows, 1), generator=generator)
    return (start + stride * torch.arange(length)) % (vocab - 3) + 3


def own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss that the library computes from `labels`, shifted inside."""
    return model(**batch).loss


def tokens_and_labels(generator: torch.Generator) -> dict[str, Tensor]:
    """Full rows, each its own label."""
    input_ids = counting(generator)
    return {"input_ids": input_ids, "labels": input_ids.clone()}


# ------------------------------------------------------------------------------------------- GPT-2, run_clm_no_trainer


def gpt2() -> Subject:
    """GPT-2 with its dropout, as `run_clm_no_trainer.py` trains it: two groups of decay, linear warm-up."""

    def build() -> nn.Module:
        config = transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=BOS, eos_token_id=EOS
        )
        return transformers.GPT2LMHeadModel(config)

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        no_decay = ("bias", "ln_1.weight", "ln_2.weight", "ln_f.weight")
        groups = [
            {
                "params": [p for n, p in model.named_parameters() if not any(nd in n for nd in no_decay)],
                "weight_decay": 0.01,
            },
            {
                "params": [p for n, p in model.named_parameters() if any(nd in n for nd in no_decay)],
                "weight_decay": 0.0,
            },
        ]
        return torch.optim.AdamW(groups, lr=1e-3)

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        model.train()
        total = 0.0
        for batch in batches:
            loss = model(**batch).loss / len(batches)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": total, "grad_norm": norm.item()}

    return Subject(
        name="transformers-gpt2",
        model=build,
        batch=tokens_and_labels,
        loss=own_loss,
        optimizer=optimizer,
        train_step=train_step,
        lr_scheduler=lambda optimizer: transformers.get_linear_schedule_with_warmup(optimizer, 10, 200),
    )


# ----------------------------------------------------------------------------------------------- Llama, padded batches


def llama() -> Subject:
    """Llama with grouped queries, on documents of several lengths, padded on the right."""

    def collate(documents: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        longest = max(len(document) for document in documents)
        input_ids = torch.full((len(documents), longest), PAD)
        attention_mask = torch.zeros_like(input_ids)
        for row, document in enumerate(documents):
            input_ids[row, : len(document)] = torch.tensor(list(document))
            attention_mask[row, : len(document)] = 1
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        rows = counting(generator)
        lengths = torch.randint(5, LENGTH + 1, (ROWS,), generator=generator)
        return collate([[BOS, *row[:n].tolist(), EOS] for row, n in zip(rows, lengths.tolist(), strict=True)])

    def build() -> nn.Module:
        config = transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
        return transformers.LlamaForCausalLM(config)

    @torch.no_grad()
    def validate(model: Any, batches: list[dict[str, Tensor]]) -> float:
        was_training = model.training
        model.eval()
        total, counted = 0.0, 0
        for each in batches:
            number = int((each["labels"][:, 1:] != -100).sum())
            total += model(**each).loss.item() * number
            counted += number
        model.train(was_training)
        return total / counted

    return Subject(
        name="transformers-llama",
        model=build,
        batch=batch,
        loss=own_loss,
        collate_padded=collate,
        validate=validate,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1),
        pad_id=PAD,
        eos_id=EOS,
    )


# ------------------------------------------------------------------------------- Mistral, inputs and targets, by hand


class Window(NamedTuple):
    """Inputs and the tokens that come one later."""

    x: Tensor
    y: Tensor


def mistral() -> Subject:
    """Mistral with a sliding window, on windows cut from a stream; cross-entropy written out by logsumexp."""

    def build() -> nn.Module:
        config = transformers.MistralConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
            sliding_window=6,
            max_position_embeddings=64,
        )
        return transformers.MistralForCausalLM(config)

    def batch(generator: torch.Generator) -> Window:
        stream = counting(generator, length=LENGTH + 1)
        return Window(stream[:, :-1].contiguous(), stream[:, 1:].contiguous())

    def loss(model: Any, batch: Window) -> Tensor:
        logits = model(batch.x, use_cache=False).logits.float()
        chosen = logits.gather(-1, batch.y.unsqueeze(-1)).squeeze(-1)
        return (logits.logsumexp(-1) - chosen).mean()

    return Subject(
        name="transformers-mistral",
        model=build,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1),
    )


# ------------------------------------------------------------------------------------------ Qwen3, tuned on answers


@dataclass
class Dialogue:
    """Prompts with their answers; only the answers have labels."""

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor


def qwen3() -> Subject:
    """Qwen3, tied, supervised on answers alone, the loss summed and divided by the number of counted tokens."""

    def build() -> nn.Module:
        config = transformers.Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
        return transformers.Qwen3ForCausalLM(config)

    def batch(generator: torch.Generator) -> Dialogue:
        rows = counting(generator)
        prompt = torch.randint(3, 8, (ROWS, 1), generator=generator)
        length = torch.randint(10, LENGTH + 1, (ROWS, 1), generator=generator)
        place = torch.arange(LENGTH)
        rows = rows.masked_fill(place == length - 1, EOS).masked_fill(place >= length, PAD)
        labels = rows.masked_fill((place < prompt) | (place >= length), -100)
        return Dialogue(rows, labels, (place < length).long())

    def loss(model: Any, batch: Dialogue) -> Tensor:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        shifted = batch.labels[:, 1:]
        total = F.cross_entropy(logits[:, :-1].flatten(0, 1), shifted.flatten(), ignore_index=-100, reduction="sum")
        return total / (shifted != -100).sum()

    return Subject(
        name="transformers-qwen3-answers",
        model=build,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0),
        pad_id=PAD,
        eos_id=EOS,
    )


# ------------------------------------------------------------------------------------------------- Gemma 2, soft-capped


def gemma2() -> Subject:
    """Gemma 2: local and global layers in turn, soft-capped scores and logits, eager attention as it recommends."""

    def build() -> nn.Module:
        config = transformers.Gemma2Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=8,
            max_position_embeddings=64,
            attn_implementation="eager",
        )
        return transformers.Gemma2ForCausalLM(config)

    def batch(generator: torch.Generator) -> Tensor:
        return counting(generator)

    return Subject(
        name="transformers-gemma2",
        model=build,
        batch=batch,
        loss=lambda model, tokens: model(input_ids=tokens, labels=tokens).loss,
        optimizer=lambda model: torch.optim.Adafactor(model.parameters(), lr=1e-2),
    )


# --------------------------------------------------------------------------------- the rest, each with its peculiarity


def phi() -> Subject:
    """Phi: attention and MLP in parallel, RoPE on part of a head, a bias on the head."""
    config = transformers.PhiConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, partial_rotary_factor=0.5,
    )  # fmt: skip
    return Subject(
        name="transformers-phi",
        model=lambda: transformers.PhiForCausalLM(config),
        batch=tokens_and_labels,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-7),
    )


def opt() -> Subject:
    """OPT: learned positions from offset 2 that are counted off the mask, ReLU, a padding row in the embedding."""
    config = transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=16, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        input_ids = counting(generator)
        length = torch.randint(8, LENGTH + 1, (ROWS, 1), generator=generator)
        mask = torch.arange(LENGTH) < length
        input_ids = input_ids.masked_fill(~mask, PAD)
        return {
            "input_ids": input_ids,
            "attention_mask": mask.long(),
            "labels": input_ids.masked_fill(~mask, -100),
        }

    return Subject(
        name="transformers-opt",
        model=lambda: transformers.OPTForCausalLM(config),
        batch=batch,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1),
        pad_id=PAD,
        eos_id=EOS,
    )


def bloom() -> Subject:
    """BLOOM: ALiBi, a norm after the embedding, tied."""
    config = transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    return Subject(
        name="transformers-bloom",
        model=lambda: transformers.BloomForCausalLM(config),
        batch=tokens_and_labels,
        loss=own_loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.95)),
    )


def falcon() -> Subject:
    """Falcon: one key-value head, attention and MLP in parallel off one norm."""
    config = transformers.FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=BOS,
        eos_token_id=EOS, max_position_embeddings=64,
    )  # fmt: skip
    return Subject(
        name="transformers-falcon",
        model=lambda: transformers.FalconForCausalLM(config),
        batch=tokens_and_labels,
        loss=own_loss,
    )


def gpt_neox() -> Subject:
    """GPT-NeoX: untied, a quarter of each head rotated; a cosine schedule with warm-up."""
    config = transformers.GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip

    def lr_at(step: int) -> float:
        if step < 10:
            return 1e-3 * (step + 1) / 10
        return 1e-4 + 0.5 * 9e-4 * (1 + math.cos(math.pi * min(1.0, (step - 10) / 190)))

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for batch in batches:
            loss = model(**batch).loss
            (loss / len(batches)).backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": sum(losses) / len(losses)}

    return Subject(
        name="transformers-gpt-neox",
        model=lambda: transformers.GPTNeoXForCausalLM(config),
        batch=tokens_and_labels,
        loss=own_loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01),
        train_step=train_step,
        lr_at=lr_at,
    )


SUBJECTS = {
    "transformers-gpt2": gpt2,
    "transformers-llama": llama,
    "transformers-mistral": mistral,
    "transformers-qwen3-answers": qwen3,
    "transformers-gemma2": gemma2,
    "transformers-phi": phi,
    "transformers-opt": opt,
    "transformers-bloom": bloom,
    "transformers-falcon": falcon,
    "transformers-gpt-neox": gpt_neox,
}
