"""Models of x-transformers: a decoder with its wrapper, an encoder-decoder, and one of continuous values."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it
from x_transformers import (
    AutoregressiveWrapper,
    ContinuousTransformerWrapper,
    Decoder,
    Encoder,
    TransformerWrapper,
    ViTransformerWrapper,
    XTransformer,
)

from andon.verify import Subject

SOURCE = "x-transformers 2.31.10"

VOCAB = 50


def climbing(generator: torch.Generator, length: int = 17) -> Tensor:
    """Rows that climb by their own stride."""
    start = torch.randint(0, VOCAB, (6, 1), generator=generator)
    return (start + torch.randint(1, 4, (6, 1), generator=generator) * torch.arange(length)) % VOCAB


def decoder() -> Subject:
    """A decoder with rotary positions, SwiGLU and RMS norms; the wrapper shifts the tokens and returns the loss."""

    def build() -> nn.Module:
        layers = Decoder(
            dim=32, depth=2, heads=2, attn_dim_head=32, rotary_pos_emb=True, rotary_emb_dim=32, ff_glu=True,
            ff_swish=True, use_rmsnorm=True, attn_flash=True,
        )  # fmt: skip
        return AutoregressiveWrapper(TransformerWrapper(num_tokens=VOCAB, max_seq_len=32, attn_layers=layers))

    return Subject(
        name="x-transformers-decoder",
        model=build,
        batch=climbing,
        loss=lambda model, tokens: model(tokens),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    )


def alibi() -> Subject:
    """ALiBi with one key-value head, gates on values and normalized queries and keys; targets given apart."""

    def build() -> nn.Module:
        layers = Decoder(
            dim=32, depth=2, heads=4, attn_dim_head=8, alibi_pos_bias=True, attn_one_kv_head=True, attn_qk_norm=True,
            attn_gate_values=True,
        )  # fmt: skip
        return TransformerWrapper(
            num_tokens=VOCAB, max_seq_len=32, attn_layers=layers, use_abs_pos_emb=False, tie_embedding=True
        )

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        rows = climbing(generator)
        return {"source": rows[:, :-1], "following": rows[:, 1:]}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["source"])
        return F.cross_entropy(logits.transpose(1, 2), batch["following"])

    return Subject(
        name="x-transformers-alibi",
        model=build,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2),
    )


def copying() -> Subject:
    """An encoder-decoder that copies its source, with a mask over padding."""

    def build() -> nn.Module:
        return XTransformer(
            dim=32, enc_num_tokens=VOCAB, enc_depth=1, enc_heads=4, enc_max_seq_len=16, dec_num_tokens=VOCAB,
            dec_depth=1, dec_heads=4, dec_max_seq_len=16, tie_token_emb=True,
        )  # fmt: skip

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        source = torch.randint(2, VOCAB, (6, 10), generator=generator)
        mask = torch.arange(10) < torch.randint(6, 11, (6, 1), generator=generator)
        target = torch.cat([torch.ones(6, 1, dtype=torch.long), source[:, :6]], dim=1)
        return source, target, mask

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        source, target, mask = batch
        return model(source, target, mask=mask)

    return Subject(
        name="x-transformers-copying",
        model=build,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


def continuous() -> Subject:
    """A decoder over vectors of numbers, which forecasts the next by squared error."""

    def build() -> nn.Module:
        return ContinuousTransformerWrapper(
            dim_in=3, dim_out=3, max_seq_len=24, attn_layers=Decoder(dim=32, depth=2, heads=4, attn_dim_head=8)
        )

    def batch(generator: torch.Generator) -> Tensor:
        phase = 6 * torch.rand(8, 1, 3, generator=generator)
        speed = 0.2 + 0.5 * torch.rand(8, 1, 3, generator=generator)
        return torch.sin(phase + speed * torch.arange(20).view(1, -1, 1))

    def loss(model: nn.Module, series: Tensor) -> Tensor:
        return F.mse_loss(model(series[:, :-1]), series[:, 1:])

    return Subject(
        name="x-transformers-continuous",
        model=build,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
    )


def pictures() -> Subject:
    """A vision transformer with register tokens that tells the brightest corner."""

    def build() -> nn.Module:
        return ViTransformerWrapper(
            image_size=12, patch_size=4, num_classes=4, channels=1, num_register_tokens=2,
            attn_layers=Encoder(dim=32, depth=2, heads=4, attn_dim_head=8),
        )  # fmt: skip

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        corner = torch.randint(0, 4, (8,), generator=generator)
        image = 0.3 * torch.randn(8, 1, 12, 12, generator=generator)
        for row, place in enumerate(corner.tolist()):
            y, x = 6 * (place // 2), 6 * (place % 2)
            image[row, 0, y : y + 6, x : x + 6] += 1
        return image, corner

    return Subject(
        name="x-transformers-vit",
        model=build,
        batch=batch,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        causal=False,
    )


SUBJECTS = {
    "x-transformers-decoder": decoder,
    "x-transformers-alibi": alibi,
    "x-transformers-copying": copying,
    "x-transformers-continuous": continuous,
    "x-transformers-vit": pictures,
}
