"""Images, sound and series with transformers: contrastive, masked, transcribed, forecast."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "transformers 5.24.0"

ROWS = 6
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def disks(generator: torch.Generator, size: int, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Noisy pictures (rows, 3, size, size) of one bright disk, and which pixels it covers."""
    center = torch.rand(rows, 2, 1, 1, generator=generator) * size
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((y - center[:, 0]) ** 2 + (x - center[:, 1]) ** 2) < (size / 3) ** 2
    noise = 0.3 * torch.randn(rows, 3, size, size, generator=generator)
    return noise + inside.unsqueeze(1), inside


def vit() -> Subject:
    """ViT that tells in which half of the picture the disk lies, with smoothed labels."""
    config = transformers.ViTConfig(**SMALL, image_size=16, patch_size=4, num_labels=2)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pixels, inside = disks(generator, 16)
        left, right = inside[:, :, :8].sum((1, 2)), inside[:, :, 8:].sum((1, 2))
        return pixels, (right > left).long()

    def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = batch
        return F.cross_entropy(model(images).logits, targets, label_smoothing=0.1)

    return Subject(
        name="transformers-vit",
        model=lambda: transformers.ViTForImageClassification(config),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05),
        causal=False,
    )


def vit_mae() -> Subject:
    """A masked autoencoder: three patches of four are hidden at random; positions are fixed sines."""
    config = transformers.ViTMAEConfig(
        **SMALL, image_size=16, patch_size=4, decoder_hidden_size=24, decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4, decoder_intermediate_size=48,
    )  # fmt: skip

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        learned = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(learned, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05)

    return Subject(
        name="transformers-vit-mae",
        model=lambda: transformers.ViTMAEForPreTraining(config),
        batch=lambda generator: {"pixel_values": disks(generator, 16)[0]},
        loss=lambda model, batch: model(**batch).loss,
        optimizer=optimizer,
        causal=False,
    )


def segformer() -> Subject:
    """SegFormer, which finds the disk's pixels; the rim of the picture is not counted (255)."""
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], sr_ratios=[4, 2, 1, 1],
        decoder_hidden_size=24, num_labels=2,
    )  # fmt: skip

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        pixels, inside = disks(generator, 64, rows=3)
        labels = torch.full_like(inside, 255, dtype=torch.long)
        labels[:, 1:-1, 1:-1] = inside[:, 1:-1, 1:-1].long()
        return {"pixel_values": pixels, "labels": labels}

    return Subject(
        name="transformers-segformer",
        model=lambda: transformers.SegformerForSemanticSegmentation(config),
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01),
        causal=False,
    )


def clip() -> Subject:
    """CLIP: pictures and captions find each other within the batch; both directions count half."""
    text = {**SMALL, "vocab_size": 40, "max_position_embeddings": 8, "eos_token_id": 39, "bos_token_id": 38}
    vision = {**SMALL, "image_size": 16, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        pixels, inside = disks(generator, 16)
        place = inside.float().flatten(1).topk(3).indices * 38 // 256
        marks = torch.ones(ROWS, 1, dtype=torch.long)
        return {"input_ids": torch.cat([38 * marks, place, 39 * marks], dim=1), "pixel_values": pixels}

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = model(**batch).logits_per_image
        same = torch.arange(len(logits))
        return (F.cross_entropy(logits, same) + F.cross_entropy(logits.t(), same)) / 2

    return Subject(
        name="transformers-clip",
        model=lambda: transformers.CLIPModel(config),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(
            model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2
        ),
        causal=False,
    )


def whisper() -> Subject:
    """Whisper: spectrograms to words; the encoder's positions are frozen sines."""
    config = transformers.WhisperConfig(
        vocab_size=24, num_mel_bins=8, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=16,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        words = torch.randint(3, 24, (ROWS, 4), generator=generator)
        tones = F.one_hot(words % 8, 8).float().repeat_interleave(8, dim=1)
        tones = tones * (1 + words // 8).repeat_interleave(8, dim=1).unsqueeze(-1)
        features = tones.transpose(1, 2) + 0.1 * torch.randn(ROWS, 8, 32, generator=generator)
        labels = F.pad(words, (0, 1), value=2)
        short = torch.rand(ROWS, 1, generator=generator) < 0.3
        labels[:, -1:] = labels[:, -1:].masked_fill(short, -100)
        return {"input_features": features, "labels": labels}

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3, eps=1e-6)

    return Subject(
        name="transformers-whisper",
        model=lambda: transformers.WhisperForConditionalGeneration(config),
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=optimizer,
        causal=False,
    )


def wav2vec2() -> Subject:
    """Wav2Vec 2 fine-tuned by CTC, its convolutions frozen, as `run_speech_recognition_ctc.py` does."""
    config = transformers.Wav2Vec2Config(
        **SMALL, vocab_size=8, conv_dim=(16, 16), conv_kernel=(8, 4), conv_stride=(4, 2), conv_bias=False,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, mask_time_prob=0.0, layerdrop=0.0,
        ctc_loss_reduction="mean", pad_token_id=0, attention_dropout=0.0, hidden_dropout=0.0, feat_proj_dropout=0.0,
    )  # fmt: skip

    def build() -> nn.Module:
        model = transformers.Wav2Vec2ForCTC(config)
        model.freeze_feature_encoder()
        return model

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        letters = torch.randint(1, 8, (4, 4), generator=generator)
        time = torch.arange(64) * 2 * math.pi / 64
        waves = torch.sin(time * (4 * letters).unsqueeze(-1)).flatten(1)
        waves = waves + 0.05 * torch.randn(waves.shape, generator=generator)
        waves = (waves - waves.mean(1, keepdim=True)) / waves.std(1, keepdim=True)
        return {"input_values": waves, "labels": letters}

    return Subject(
        name="transformers-wav2vec2-ctc",
        model=build,
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3),
        causal=False,
    )


@dataclass
class Series:
    """What was seen, what comes, and the calendar of both."""

    past: Tensor
    past_calendar: Tensor
    future: Tensor
    future_calendar: Tensor
    kind: Tensor


def waves(generator: torch.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Noisy sines of several periods (rows, length), and which period."""
    kind = torch.randint(0, 3, (rows, 1), generator=generator)
    phase = torch.rand(rows, 1, generator=generator) * 6
    values = torch.sin(torch.arange(length) / (kind + 1.0) + phase) + 2.0
    return values + 0.1 * torch.randn(rows, length, generator=generator), kind


def time_series() -> Subject:
    """The time series transformer: negative log-likelihood of a Student's t, scaled by the mean of each series."""
    config = transformers.TimeSeriesTransformerConfig(
        prediction_length=6, context_length=12, lags_sequence=[1, 2, 4], num_time_features=1, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_static_categorical_features=1, cardinality=[3], embedding_dimension=[2],
        scaling="mean",
    )  # fmt: skip

    def batch(generator: torch.Generator) -> Series:
        values, kind = waves(generator, 16, 22)
        age = torch.log10(2.0 + torch.arange(22)).expand(16, -1).unsqueeze(-1)
        return Series(values[:, :16], age[:, :16], values[:, 16:], age[:, 16:], kind)

    def loss(model: Any, batch: Series) -> Tensor:
        return model(
            past_values=batch.past,
            past_time_features=batch.past_calendar,
            past_observed_mask=torch.ones_like(batch.past),
            static_categorical_features=batch.kind,
            future_values=batch.future,
            future_time_features=batch.future_calendar,
        ).loss

    return Subject(
        name="transformers-time-series",
        model=lambda: transformers.TimeSeriesTransformerForPrediction(config),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1),
        causal=False,
    )


def patch_tst() -> Subject:
    """PatchTST: channels apart, patches that overlap, squared error on the next steps."""
    config = transformers.PatchTSTConfig(
        num_input_channels=2, context_length=24, patch_length=8, patch_stride=4, prediction_length=4, d_model=16,
        ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, loss="mse",
    )  # fmt: skip

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        series = torch.stack([waves(generator, 8, 28)[0] for _ in range(2)], dim=-1)
        return {"past_values": series[:, :24], "future_values": series[:, 24:]}

    return Subject(
        name="transformers-patchtst",
        model=lambda: transformers.PatchTSTForPrediction(config),
        batch=batch,
        loss=lambda model, batch: model(**batch).loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=200),
        causal=False,
    )


SUBJECTS = {
    "transformers-vit": vit,
    "transformers-vit-mae": vit_mae,
    "transformers-segformer": segformer,
    "transformers-clip": clip,
    "transformers-whisper": whisper,
    "transformers-wav2vec2-ctc": wav2vec2,
    "transformers-time-series": time_series,
    "transformers-patchtst": patch_tst,
}
