"""Pictures and signals: diffusers, MONAI, kornia, pytorch-msssim, snntorch, pytorch-tcn and e3nn."""

import weakref
from typing import Any

import e3nn
import kornia
import snntorch as snn
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from e3nn import o3
from e3nn.nn import Gate
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from pytorch_msssim import ssim
from pytorch_tcn import TCN
from snntorch import functional as spiking
from snntorch import surrogate, utils
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = (
    "diffusers 0.42.1, monai 1.6.1, kornia 0.9.0, pytorch-msssim 1.0.0, snntorch 1.0.0, pytorch-tcn 1.2.3, e3nn 0.6.0"
)


e3nn.set_optimization_defaults(jit_mode="eager", optimize_einsums=False)  # a small product needs no compiler


def blobs(generator: torch.Generator, size: int = 16, rows: int = 4) -> Tensor:
    """Soft spots on dark, (rows, 1, size, size), from 0 to 1."""
    place = torch.rand(rows, 2, 1, 1, generator=generator) * size
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.exp(-((y - place[:, :1]) ** 2 + (x - place[:, 1:]) ** 2) / (size / 2))


# ------------------------------------------------------------------------------------------------------ diffusers


def small_unet() -> nn.Module:
    """A UNet of two levels."""
    return UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
    )  # fmt: skip


def denoising() -> Subject:
    """The library's tutorial: noise of a random time is predicted; cosine schedule, clipping and an average."""
    scheduler = DDPMScheduler(num_train_timesteps=100)
    averages: weakref.WeakKeyDictionary[nn.Module, EMAModel] = weakref.WeakKeyDictionary()

    def loss(model: Any, clean: Tensor) -> Tensor:
        noise = torch.randn_like(clean)
        times = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),))
        noisy = scheduler.add_noise(clean, noise, times)
        return F.mse_loss(model(noisy, times, return_dict=False)[0], noise)

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> dict[str, float]:
        average = averages.get(model) or averages.setdefault(model, EMAModel(model.parameters(), decay=0.999))
        total = 0.0
        for clean in batches:
            each = loss(model, clean) / len(batches)
            each.backward()
            total += each.item()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())
        return {"loss": total, "grad_norm": norm.item()}

    return Subject(
        name="diffusers-ddpm",
        model=small_unet,
        batch=lambda generator: blobs(generator) * 2 - 1,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
        train_step=train_step,
        lr_scheduler=lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 5, 300),
        causal=False,
    )


def velocity() -> Subject:
    """Velocities instead of noise, weighed by the signal-to-noise ratio, its least 5; noise comes with the batch."""
    scheduler = DDPMScheduler(num_train_timesteps=100, prediction_type="v_prediction")

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        clean = blobs(generator) * 2 - 1
        noise = torch.randn(clean.shape, generator=generator)
        return {"clean": clean, "noise": noise, "times": torch.randint(0, 100, (len(clean),), generator=generator)}

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        noisy = scheduler.add_noise(batch["clean"], batch["noise"], batch["times"])
        target = scheduler.get_velocity(batch["clean"], batch["noise"], batch["times"])
        kept = scheduler.alphas_cumprod[batch["times"]]
        ratio = kept / (1 - kept)
        weight = ratio.clamp(max=5.0) / (ratio + 1)
        error = F.mse_loss(model(noisy, batch["times"]).sample, target, reduction="none").mean(dim=(1, 2, 3))
        return (weight * error).mean()

    return Subject(
        name="diffusers-velocity",
        model=small_unet,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
        causal=False,
    )


# ---------------------------------------------------------------------------------------------------------- MONAI


def segmentation() -> Subject:
    """MONAI's UNet in three dimensions with residual units, Dice and cross-entropy, background left out of Dice."""
    objective = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        place = 2 + torch.rand(2, 3, 1, 1, 1, generator=generator) * 4
        grid = torch.stack(torch.meshgrid(*[torch.arange(8)] * 3, indexing="ij"))
        ball = ((grid - place) ** 2).sum(1, keepdim=True) < 6
        image = ball + 0.4 * torch.randn(2, 1, 8, 8, 8, generator=generator)
        return {"image": image, "label": ball.long()}

    return Subject(
        name="monai-unet",
        model=lambda: UNet(
            spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1
        ),
        batch=batch,
        loss=lambda model, batch: objective(model(batch["image"]), batch["label"]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-5),
        causal=False,
    )


# ----------------------------------------------------------------------------------------------- kornia and msssim


class Denoiser(nn.Module):
    """Convolutions that predict what to take away; the last starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.PReLU(12), nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12)
        )
        self.last = nn.Conv2d(12, 1, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor) -> Tensor:
        """The cleaner picture."""
        return noisy - self.last(self.layers(noisy))


def noisy_pairs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A noisy picture and the clean one."""
    clean = blobs(generator)
    return clean + 0.2 * torch.randn(clean.shape, generator=generator), clean


def edges() -> Subject:
    """Charbonnier's error, the error of Sobel edges and a little total variation, by kornia."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        noisy, clean = batch
        found = model(noisy)
        edge = F.l1_loss(kornia.filters.sobel(found), kornia.filters.sobel(clean))
        variation = kornia.losses.total_variation(found, reduction="mean").mean()
        return kornia.losses.charbonnier_loss(found, clean, reduction="mean") + edge + 0.01 * variation

    return Subject(
        name="kornia-denoising",
        model=Denoiser,
        batch=noisy_pairs,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


def similarity() -> Subject:
    """One minus structural similarity, and the absolute error."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        noisy, clean = batch
        found = model(noisy)
        alike = ssim(found, clean, data_range=1.0, win_size=7, nonnegative_ssim=True)
        return 0.84 * (1 - alike) + 0.16 * (found - clean).abs().mean()

    return Subject(
        name="msssim-denoising",
        model=Denoiser,
        batch=noisy_pairs,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


class Registration(nn.Module):
    """Says by how much a picture was turned and shifted, and turns it back by kornia."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(2, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6)
        )
        for parameter in self.look[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, moved: Tensor, fixed: Tensor) -> Tensor:
        """The moved picture over the fixed one; at first as it is."""
        change = self.look(torch.cat([moved, fixed], dim=1)).view(-1, 2, 3)
        affine = torch.eye(2, 3) + change * torch.tensor([0.1, 0.1, 1.0])
        return kornia.geometry.transform.warp_affine(moved, affine, dsize=(16, 16), padding_mode="border")


def registration() -> Subject:
    """Pictures shifted by up to three pixels are laid over each other."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        place = 5 + torch.rand(8, 2, 1, 1, generator=generator) * 6
        shift = torch.rand(8, 2, 1, 1, generator=generator) * 6 - 3
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")

        def spot(at: Tensor) -> Tensor:
            return torch.exp(-((y - at[:, :1]) ** 2 + (x - at[:, 1:]) ** 2) / 12)

        return {"moved": spot(place + shift), "fixed": spot(place)}

    return Subject(
        name="kornia-registration",
        model=Registration,
        batch=batch,
        loss=lambda model, batch: F.mse_loss(model(**batch), batch["fixed"]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        causal=False,
    )


# ------------------------------------------------------------------------------------------ spikes, time, symmetries


class Spiking(nn.Module):
    """Leaky neurons that fire over ten steps; the slope of a spike is a surrogate."""

    def __init__(self) -> None:
        super().__init__()
        slope = surrogate.fast_sigmoid(slope=25)
        self.hidden, self.out = nn.Linear(12, 32), nn.Linear(32, 3)
        self.fire_hidden = snn.Leaky(beta=0.9, spike_grad=slope)
        self.fire_out = snn.Leaky(beta=0.9, spike_grad=slope)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (time, rows, classes)."""
        hidden, out = self.fire_hidden.init_leaky(), self.fire_out.init_leaky()
        spikes = []
        for _ in range(10):
            fired, hidden = self.fire_hidden(self.hidden(x), hidden)
            fired, out = self.fire_out(self.out(fired), out)
            spikes.append(fired)
        return torch.stack(spikes)


def spikes() -> Subject:
    """Cross-entropy of the firing rate of three classes."""
    rate = spiking.ce_rate_loss()

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(0, 3, (24,), generator=generator)
        bright = F.one_hot(label, 3).float().repeat_interleave(4, dim=1)
        return bright + 0.3 * torch.rand(24, 12, generator=generator), label

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        utils.reset(model)
        return rate(model(batch[0]), batch[1]).squeeze()  # the library keeps one dimension

    return Subject(
        name="snntorch-leaky",
        model=Spiking,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.999)),
        causal=False,
    )


def temporal_convolution() -> Subject:
    """A causal temporal convolution network with weight norms, asked for a moving average, (rows, channels, time)."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        series = torch.randn(8, 2, 24, generator=generator)
        padded = F.pad(series.sum(1, keepdim=True), (3, 0))
        return series, F.avg_pool1d(padded, 4, 1)

    return Subject(
        name="pytorch-tcn-average",
        model=lambda: TCN(num_inputs=2, num_channels=[12, 12], kernel_size=3, dropout=0.05, output_projection=1),
        batch=batch,
        loss=lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
    )


class Equivariant(nn.Module):
    """Scalars and vectors in, a gate, a vector out: turning the input turns the output."""

    def __init__(self) -> None:
        super().__init__()
        inputs, out = o3.Irreps("2x0e + 2x1o"), o3.Irreps("1x1o")
        self.gate = Gate("8x0e", [torch.tanh], "6x0e", [torch.sigmoid], "6x1o")
        self.mix = o3.FullyConnectedTensorProduct(inputs, inputs, self.gate.irreps_in)
        self.last = o3.Linear(self.gate.irreps_out, out)

    def forward(self, x: Tensor) -> Tensor:
        """One vector per row."""
        return self.last(self.gate(self.mix(x, x)))


def equivariant() -> Subject:
    """A vector that is a product of a scalar and a vector."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(32, 8, generator=generator)
        return x, x[:, :1] * x[:, 2:5] + 0.5 * x[:, 1:2] * x[:, 5:8]

    return Subject(
        name="e3nn-gated",
        model=Equivariant,
        batch=batch,
        loss=lambda model, batch: (model(batch[0]) - batch[1]).square().mean(),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        causal=False,
    )


SUBJECTS = {
    "diffusers-ddpm": denoising,
    "diffusers-velocity": velocity,
    "monai-unet": segmentation,
    "kornia-denoising": edges,
    "msssim-denoising": similarity,
    "kornia-registration": registration,
    "snntorch-leaky": spikes,
    "pytorch-tcn-average": temporal_convolution,
    "e3nn-gated": equivariant,
}
