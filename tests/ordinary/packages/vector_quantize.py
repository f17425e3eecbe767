"""Autoencoders with codes of vector-quantize-pytorch: a moving codebook, residual codes, and finite scalars."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it
from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize

from andon.verify import Subject

SOURCE = "vector-quantize-pytorch 1.32.0"


class Restored(NamedTuple):
    """The picture again, the codes, and what the quantizer adds to the loss."""

    picture: Tensor
    codes: Tensor
    commitment: Tensor


class PictureCodes(nn.Module):
    """A VQ-VAE: convolutions, a codebook that follows its vectors by moving averages, and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 4, 2, 1))
        self.codes = VectorQuantize(
            dim=8, codebook_size=32, decay=0.8, commitment_weight=0.25, accept_image_fmap=True, kmeans_init=False
        )
        self.decode = nn.Sequential(nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))

    def forward(self, picture: Tensor) -> Restored:
        """Straight through the codes."""
        quantized, codes, commitment = self.codes(self.encode(picture))
        return Restored(self.decode(quantized), codes, commitment.sum())


def stripes(generator: torch.Generator) -> Tensor:
    """Striped pictures (8, 1, 16, 16), of two directions and several widths."""
    width = torch.randint(2, 5, (8, 1, 1), generator=generator)
    shift = torch.randint(0, 4, (8, 1, 1), generator=generator)
    lines = ((torch.arange(16).view(1, 1, -1) + shift) // width % 2).float().expand(8, 16, 16)
    upright = torch.rand(8, 1, 1, generator=generator) < 0.5
    return torch.where(upright, lines, lines.transpose(1, 2)).unsqueeze(1)


def vq_pictures() -> Subject:
    """Mean squared error and the commitment."""

    def loss(model: nn.Module, picture: Tensor) -> Tensor:
        restored = model(picture)
        return F.mse_loss(restored.picture, picture) + restored.commitment

    return Subject(
        name="vector-quantize-pictures",
        model=PictureCodes,
        batch=stripes,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        causal=False,
    )


class SoundCodes(nn.Module):
    """Residual codes of a sound, as neural codecs have them."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv1d(1, 16, 8, 4, 2), nn.ELU(), nn.Conv1d(16, 16, 4, 2, 1))
        self.codes = ResidualVQ(dim=16, num_quantizers=3, codebook_size=16, decay=0.9)
        self.decode = nn.Sequential(nn.ConvTranspose1d(16, 16, 4, 2, 1), nn.ELU(), nn.ConvTranspose1d(16, 1, 8, 4, 2))

    def forward(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """The sound again, and a commitment for each quantizer."""
        quantized, _, commitments = self.codes(self.encode(sound).transpose(1, 2))
        return self.decode(quantized.transpose(1, 2)), commitments


def residual_sounds() -> Subject:
    """Errors of the wave and of its spectrum."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        pitch = 0.1 + 0.4 * torch.rand(6, 1, 1, generator=generator)
        return {"audio": torch.sin(pitch * torch.arange(128) + 6 * torch.rand(6, 1, 1, generator=generator))}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        sound = batch["audio"]
        again, commitments = model(sound)
        window = torch.hann_window(32)

        def spectrum(wave: Tensor) -> Tensor:
            return torch.stft(wave.squeeze(1), 32, 8, window=window, return_complex=True).abs()

        return F.l1_loss(again, sound) + F.l1_loss(spectrum(again), spectrum(sound)) / 4 + commitments.sum()

    return Subject(
        name="vector-quantize-sounds",
        model=SoundCodes,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.8, 0.99)),
        causal=False,
    )


class ScalarCodes(nn.Module):
    """Finite scalar quantization: no codebook to learn, no term in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 3))
        self.codes = FSQ(levels=[8, 5, 5])
        self.decode = nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is restored, and the codes."""
        quantized, codes = self.codes(self.encode(x))
        return self.decode(quantized), codes


def scalar_vectors() -> Subject:
    """Vectors that lie on a plane of three dimensions, (rows, places, 12)."""
    plane = torch.randn(3, 12, generator=torch.Generator().manual_seed(3))

    def batch(generator: torch.Generator) -> Tensor:
        return torch.randn(8, 6, 3, generator=generator) @ plane

    return Subject(
        name="vector-quantize-scalars",
        model=ScalarCodes,
        batch=batch,
        loss=lambda model, x: (model(x)[0] - x).square().mean(),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3),
        causal=False,
    )


SUBJECTS = {
    "vector-quantize-pictures": vq_pictures,
    "vector-quantize-sounds": residual_sounds,
    "vector-quantize-scalars": scalar_vectors,
}
