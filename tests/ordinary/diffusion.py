"""Noise to data: DDPM with a U-Net, score matching, rectified flow, consistent weights by EMA."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "written for this corpus"


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sines and cosines of (B,) to (B, dim)."""
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / half)
    args = t[:, None].float() * freqs[None]
    return torch.cat([torch.cos(args), torch.sin(args)], dim=-1)


def zero(*modules: nn.Module) -> None:
    """So that they add nothing at first."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


# ------------------------------------------------------------------------------------------------- DDPM with a U-Net
class ResBlock(nn.Module):
    """Convolutions, told the time; the second starts at zero."""

    def __init__(self, channels: int, out: int, emb: int = 32) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, channels), nn.Conv2d(channels, out, 3, padding=1)
        self.time = nn.Linear(emb, out)
        self.norm2, self.conv2 = nn.GroupNorm(4, out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        zero(self.conv2)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, out, H, W)."""
        h = self.conv1(nn.functional.silu(self.norm1(x))) + self.time(nn.functional.silu(emb))[..., None, None]
        return self.skip(x) + self.conv2(nn.functional.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """Pixels attend to each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)
        zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        q, k, v = self.qkv(self.norm(x).flatten(2)).chunk(3, dim=1)
        weight = torch.einsum("bct,bcs->bts", q, k).div(math.sqrt(q.shape[1])).softmax(-1)
        return x + self.out(torch.einsum("bts,bcs->bct", weight, v)).view_as(x)


class DenoisingUNet(nn.Module):
    """Two resolutions; predicts the noise, at first none."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(channels, 32), nn.SiLU(), nn.Linear(32, 32))
        self.inp = nn.Conv2d(1, channels, 3, padding=1)
        self.down, self.pool = ResBlock(channels, channels), nn.Conv2d(channels, channels, 3, 2, 1)
        self.mid1, self.attn, self.mid2 = ResBlock(channels, 32), AttentionBlock(32), ResBlock(32, 32)
        self.up, self.last = nn.Upsample(scale_factor=2), ResBlock(32 + channels, channels)
        self.norm, self.out = nn.GroupNorm(4, channels), nn.Conv2d(channels, 1, 3, padding=1)
        self.channels = channels
        zero(self.out)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise in x at time t."""
        emb = self.time(timestep_embedding(t, self.channels))
        wide = self.down(self.inp(x), emb)
        deep = self.mid2(self.attn(self.mid1(self.pool(wide), emb)), emb)
        h = self.last(torch.cat([self.up(deep), wide], 1), emb)
        return self.out(nn.functional.silu(self.norm(h)))


STEPS = 200
ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(1e-4, 0.05, STEPS), 0)


def digits(generator: torch.Generator) -> Tensor:
    """Bright bars on dark, between -1 and 1."""
    x = -torch.ones(6, 1, 8, 8)
    for image, column in zip(x, torch.randint(8, (6,), generator=generator).tolist(), strict=True):
        image[..., column] = 1.0
    return x


def ddpm_loss(model: nn.Module, x0: Tensor) -> Tensor:
    """Ho et al. 2020: the mean squared error of the noise at a random time."""
    t = torch.randint(0, STEPS, (len(x0),), device=x0.device)
    noise = torch.randn_like(x0)
    alpha = ALPHAS_CUMPROD.to(x0.device)[t].view(-1, 1, 1, 1)
    return nn.functional.mse_loss(model(alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise, t), noise)


def ddpm() -> Subject:
    """Warmed up linearly."""
    return Subject(
        name="ddpm", model=DenoisingUNet, batch=digits, loss=ddpm_loss, causal=False, random_augmentation=True,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / 20)),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------- v-prediction
class DiT(nn.Module):
    """A small transformer whose norms are scaled and shifted by time and class (adaLN-Zero); class 4 means none."""

    def __init__(self, width: int = 24, classes: int = 4) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(4, width), nn.Parameter(torch.randn(16, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(3))
        self.attention = nn.MultiheadAttention(width, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation, self.last_modulation = nn.Linear(width, 6 * width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, 4)
        zero(self.modulation, self.last_modulation, self.out)
        self.width, self.none = width, classes

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """(B, 16, 4) patches to the same."""
        c = nn.functional.silu(self.time(timestep_embedding(1000 * t, self.width)) + self.label(label))[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, -1)
        h = self.embed(x) + self.places
        a = self.norm1(h) * (1 + scale1) + shift1
        h = h + gate1 * self.attention(a, a, a, need_weights=False)[0]
        h = h + gate2 * self.mlp(self.norm2(h) * (1 + scale2) + shift2)
        shift, scale = self.last_modulation(c).chunk(2, -1)
        return self.out(self.norm3(h) * (1 + scale) + shift)


def patches(generator: torch.Generator) -> dict[str, Tensor]:
    """Patches with a class."""
    label = torch.randint(4, (8,), generator=generator)
    x = 0.2 * torch.randn(8, 16, 4, generator=generator)
    x[torch.arange(8), :, label] += 1.0
    return {"x": x, "label": label}


def flow_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Rectified flow: on the straight way from noise to data, predict the direction. One label in ten is dropped."""
    x1 = batch["x"]
    x0, t = torch.randn_like(x1), torch.sigmoid(torch.randn(len(x1), device=x1.device))
    label = torch.where(torch.rand(len(x1), device=x1.device) < 0.1, model.none, batch["label"])
    xt = torch.lerp(x0, x1, t[:, None, None])
    return (model(xt, t, label) - (x1 - x0)).square().mean()


def rectified_flow() -> Subject:
    """Classes may be left out, for guidance."""
    return Subject(
        name="rectified flow", model=DiT, batch=patches, loss=flow_loss, causal=False, random_augmentation=True,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0),
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------- score matching
class NoiseConditionalScore(nn.Module):
    """Song and Ermon 2019: the score at ten levels of noise, divided by the level."""

    sigmas: Tensor

    def __init__(self, levels: int = 10) -> None:
        super().__init__()
        self.register_buffer("sigmas", torch.logspace(math.log10(2.0), -1.5, levels))
        self.level = nn.Embedding(levels, 48)
        self.first, self.second, self.out = nn.Linear(2, 48), nn.Linear(48, 48), nn.Linear(48, 2)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, 2) to the same."""
        h = nn.functional.softplus(self.first(x) + self.level(level))
        h = nn.functional.softplus(self.second(h) + h)
        return self.out(h) / self.sigmas[level, None]


def two_moons(generator: torch.Generator) -> Tensor:
    """Points on two half circles."""
    angle, side = math.pi * torch.rand(64, generator=generator), torch.randint(2, (64,), generator=generator)
    x, y = angle.cos(), angle.sin()
    points = torch.stack([torch.where(side == 1, 1 - x, x), torch.where(side == 1, 0.5 - y, y)], 1)
    return points + 0.05 * torch.randn(64, 2, generator=generator)


def denoising_score_loss(model: Any, x: Tensor) -> Tensor:
    """Weighted by the square of the level."""
    level = torch.randint(len(model.sigmas), (len(x),), device=x.device)
    sigma = model.sigmas[level, None]
    noise = torch.randn_like(x)
    score = model(x + sigma * noise, level)
    return 0.5 * (sigma * score + noise).square().sum(-1).mean()


class Energy(nn.Module):
    """A potential; its negative gradient is the score."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 32), nn.Softplus(), nn.Linear(32, 32), nn.Softplus(), nn.Linear(32, 1, False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,)."""
        return self.net(x).squeeze(-1)


def sliced_score_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Song et al. 2019: v' grad(score) v + (v' score)^2 / 2 over random directions, by a second derivative."""
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        v = torch.randn_like(points)
        (gradient,) = torch.autograd.grad(-model(points).sum(), points, create_graph=True)
        along = (gradient * v).sum()
        (curvature,) = torch.autograd.grad(along, points, create_graph=True)
    return ((curvature * v).sum(-1) + 0.5 * (gradient * v).sum(-1).square()).mean()


# ---------------------------------------------------------------------------------------- sampled from averaged weights
class EDM(nn.Module):
    """Karras et al. 2022: preconditioned denoiser of points, and its exponential average for sampling."""

    def __init__(self, data_std: float = 0.7) -> None:
        super().__init__()
        self.data_std = data_std
        self.net = nn.Sequential(nn.Linear(3, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2))
        self.ema = copy.deepcopy(self.net)
        self.ema.requires_grad_(False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The denoised points, by the average where not in training."""
        total = sigma**2 + self.data_std**2
        net = self.net if self.training else self.ema
        inside = net(torch.cat([x / total.sqrt(), sigma.log() / 4], 1))
        return self.data_std**2 / total * x + sigma * self.data_std / total.sqrt() * inside


def edm_loss(model: Any, x: Tensor) -> Tensor:
    """Weighted so that each level counts alike."""
    sigma = torch.exp(1.2 * torch.randn(len(x), 1, device=x.device) - 1.2)
    weight = (sigma**2 + model.data_std**2) / (sigma * model.data_std) ** 2
    return (weight * (model(x + sigma * torch.randn_like(x), sigma) - x).square()).mean()


def edm_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> dict[str, float]:
    """The update, then the average's."""
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss = torch.stack([edm_loss(model, batch) for batch in batches]).mean()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        torch._foreach_lerp_(list(model.ema.parameters()), list(model.net.parameters()), 0.05)
    return {"loss": loss.item()}


def edm() -> Subject:
    """The average is evaluated."""

    def validate(model: Any, batches: list[Tensor]) -> float:
        model.eval()
        with torch.no_grad():
            losses = [edm_loss(model, batch).item() * len(batch) for batch in batches]
        model.train()
        return sum(losses) / sum(map(len, batches))

    return Subject(
        name="edm", model=EDM, batch=two_moons, loss=edm_loss, causal=False, random_augmentation=True,
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3),
        train_step=edm_step, validate=validate,
    )  # fmt: skip


SUBJECTS = {
    "ddpm": ddpm,
    "rectified flow": rectified_flow,
    "denoising score": lambda: Subject(
        name="denoising score", model=NoiseConditionalScore, batch=two_moons, loss=denoising_score_loss,
        causal=False, random_augmentation=True,
    ),
    "sliced score": lambda: Subject(
        name="sliced score", model=Energy, batch=two_moons, loss=sliced_score_loss, causal=False,
        random_augmentation=True,
    ),
    "edm": edm,
}  # fmt: skip
