"""Encoders and encoder-decoders of transformers for text: masked, labeled, answered, translated."""

from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "transformers 5.24.0"

VOCAB, ROWS, LENGTH = 59, 8, 16
PAD, CLS, SEP, MASK = 0, 1, 2, 3
FIRST = 4
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
}


def sentences(generator: torch.Generator, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Marked and padded rows of related tokens, and their masks."""
    start = torch.randint(FIRST, VOCAB, (rows, 1), generator=generator)
    ids = (start + torch.arange(LENGTH) * 2 - FIRST) % (VOCAB - FIRST) + FIRST
    length = torch.randint(8, LENGTH + 1, (rows, 1), generator=generator)
    place = torch.arange(LENGTH)
    ids[:, 0] = CLS
    ids = ids.masked_fill(place == length - 1, SEP).masked_fill(place >= length, PAD)
    return ids, (place < length).long()


def masked(ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """BERT's corruption: 15% are asked for; of these 80% masked, 10% replaced, 10% kept."""
    asked = (torch.rand(ids.shape, generator=generator) < 0.15) & (ids >= FIRST)
    labels = ids.masked_fill(~asked, -100)
    dice = torch.rand(ids.shape, generator=generator)
    others = torch.randint(FIRST, VOCAB, ids.shape, generator=generator)
    ids = torch.where(asked & (dice < 0.8), torch.full_like(ids, MASK), ids)
    return torch.where(asked & (dice > 0.9), others, ids), labels


def bert() -> Subject:
    """BERT's masked language model; no next-sentence head, as most train it now."""
    config = transformers.BertConfig(**SIZES)

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = sentences(generator)
        corrupted, labels = masked(ids, generator)
        return {"input_ids": corrupted, "attention_mask": mask, "labels": labels}

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        named = list(model.named_parameters())
        kept = ("bias", "LayerNorm.weight")
        groups = [
            {"params": [p for n, p in named if not n.endswith(kept)], "weight_decay": 0.01},
            {"params": [p for n, p in named if n.endswith(kept)], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-3, eps=1e-6)

    return Subject(
        name="transformers-bert-mlm",
        model=lambda: transformers.BertForMaskedLM(config),
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=optimizer,
        lr_scheduler=lambda optimizer: transformers.get_linear_schedule_with_warmup(optimizer, 20, 500),
        causal=False,
    )


def roberta() -> Subject:
    """RoBERTa that labels tokens by kind; continuations and marks are not counted."""
    config = transformers.RobertaConfig(**SIZES | {"num_labels": 5, "pad_token_id": 1, "max_position_embeddings": 40})

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = sentences(generator)
        ids = ids.masked_fill(mask == 0, 1)
        labels = (ids // 11).clamp(max=4)
        first_of_word = torch.rand(ids.shape, generator=generator) < 0.7
        labels = labels.masked_fill(~first_of_word | (ids < FIRST), -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    return Subject(
        name="transformers-roberta-tokens",
        model=lambda: transformers.RobertaForTokenClassification(config),
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
        causal=False,
    )


def distilbert() -> Subject:
    """DistilBERT with several topics a text, each on or off: binary cross-entropy on float labels."""
    config = transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=64, num_labels=3,
        problem_type="multi_label_classification", pad_token_id=PAD,
    )  # fmt: skip

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = sentences(generator)
        topics = torch.stack([(ids == FIRST + 5).any(1), ids[:, 1] % 2 == 0, ids[:, 1] > VOCAB // 2], dim=1)
        return {"input_ids": ids, "attention_mask": mask, "labels": topics.float()}

    return Subject(
        name="transformers-distilbert-topics",
        model=lambda: transformers.DistilBertForSequenceClassification(config),
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-4),
        causal=False,
    )


class Electra(nn.Module):
    """ELECTRA: a small generator fills masks, a discriminator tells which tokens were replaced; embeddings shared."""

    def __init__(self) -> None:
        super().__init__()
        small = SIZES | {"embedding_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        self.generator = transformers.ElectraForMaskedLM(transformers.ElectraConfig(**small))
        self.discriminator = transformers.ElectraForPreTraining(
            transformers.ElectraConfig(**SIZES | {"embedding_size": 32})
        )
        self.discriminator.electra.embeddings = self.generator.electra.embeddings

    def forward(self, ids: Tensor, mask: Tensor, corrupted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Both losses. What the generator drew is not a path for gradients."""
        filled = self.generator(input_ids=corrupted, attention_mask=mask, labels=labels)
        with torch.no_grad():
            drawn = torch.distributions.Categorical(logits=filled.logits).sample()
            fake = torch.where(labels != -100, drawn, ids)
            replaced = (fake != ids).float()
        scores = self.discriminator(input_ids=fake, attention_mask=mask).logits
        told = F.binary_cross_entropy_with_logits(scores[mask == 1], replaced[mask == 1])
        return filled.loss, told


def electra() -> Subject:
    """Both models of ELECTRA trained together, the discriminator's loss weighed fifty times."""

    def batch(generator: torch.Generator) -> tuple[Tensor, ...]:
        ids, mask = sentences(generator)
        return ids, mask, *masked(ids, generator)

    def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        filled, told = model(*batch)
        return filled + 50.0 * told

    return Subject(
        name="transformers-electra",
        model=Electra,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-4, eps=1e-6, weight_decay=0.01),
        causal=False,
    )


class Question(NamedTuple):
    """Questions with their passages, and where the answers begin and end."""

    ids: Tensor
    mask: Tensor
    begins: Tensor
    ends: Tensor


def deberta() -> Subject:
    """DeBERTa-v2 that points at an answer; relative positions in both directions."""
    config = transformers.DebertaV2Config(
        **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=16, position_buckets=8
    )

    def batch(generator: torch.Generator) -> Question:
        ids, mask = sentences(generator)
        begins = torch.randint(1, 4, (ROWS,), generator=generator)
        ends = begins + torch.randint(0, 3, (ROWS,), generator=generator)
        rows = torch.arange(ROWS)
        ids[rows, begins], ids[rows, ends + 1] = FIRST, FIRST + 1
        return Question(ids, mask, begins, ends)

    def loss(model: Any, batch: Question) -> Tensor:
        output = model(input_ids=batch.ids, attention_mask=batch.mask)
        hidden = batch.mask == 0
        start = output.start_logits.masked_fill(hidden, -1e4)
        end = output.end_logits.masked_fill(hidden, -1e4)
        return (F.cross_entropy(start, batch.begins) + F.cross_entropy(end, batch.ends)) / 2

    return Subject(
        name="transformers-deberta-answers",
        model=lambda: transformers.DebertaV2ForQuestionAnswering(config),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01),
        causal=False,
    )


def t5() -> Subject:
    """T5: buckets of relative positions, no scale on attention, trained with Adafactor on reversed rows."""
    config = transformers.T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=PAD,
        decoder_start_token_id=PAD, eos_token_id=SEP,
    )  # fmt: skip

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = sentences(generator)
        labels = ids[:, :8].flip(1)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(labels == PAD, -100)}

    return Subject(
        name="transformers-t5",
        model=lambda: transformers.T5ForConditionalGeneration(config),
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: transformers.Adafactor(
            model.parameters(), lr=1e-2, scale_parameter=False, relative_step=False, warmup_init=False
        ),
        causal=False,
    )


def bart() -> Subject:
    """BART restores rows with spans of masks; targets smoothed."""
    config = transformers.BartConfig(
        vocab_size=VOCAB, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=32,
        pad_token_id=PAD, bos_token_id=CLS, eos_token_id=SEP, decoder_start_token_id=SEP, forced_eos_token_id=SEP,
    )  # fmt: skip

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = sentences(generator)
        begin = torch.randint(1, 5, (ROWS, 1), generator=generator)
        place = torch.arange(LENGTH)
        source = ids.masked_fill((place >= begin) & (place < begin + 3), MASK)
        return {"source": source, "source_mask": mask, "target": ids}

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        target = batch["target"]
        fed = torch.cat([torch.full_like(target[:, :1], SEP), target[:, :-1]], dim=1)
        output = model(input_ids=batch["source"], attention_mask=batch["source_mask"], decoder_input_ids=fed)
        return F.cross_entropy(
            output.logits.reshape(-1, VOCAB), target.reshape(-1), ignore_index=PAD, label_smoothing=0.1
        )

    return Subject(
        name="transformers-bart",
        model=lambda: transformers.BartForConditionalGeneration(config),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-8),
        causal=False,
    )


SUBJECTS = {
    "transformers-bert-mlm": bert,
    "transformers-roberta-tokens": roberta,
    "transformers-distilbert-topics": distilbert,
    "transformers-electra": electra,
    "transformers-deberta-answers": deberta,
    "transformers-t5": t5,
    "transformers-bart": bart,
}
