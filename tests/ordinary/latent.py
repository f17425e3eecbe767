"""Densities and codes: VAEs, vector quantization, coupling flows, autoregressive densities, relaxed choices."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as fn

from andon.verify import Subject

SOURCE = "written for this corpus"


# ---------------------------------------------------------------------------------------------- VAE, Bernoulli pixels
class VAE(nn.Module):
    """Kingma and Welling 2014, as in torch's examples."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(64, 40), nn.Linear(40, 6), nn.Linear(40, 6)
        self.fc3, self.fc4 = nn.Linear(6, 40), nn.Linear(40, 64)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance."""
        h = fn.relu(self.fc1(x))
        return self.fc21(h), self.fc22(h)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The picture rebuilt, mean and log variance."""
        mu, logvar = self.encode(x.view(-1, 64))
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(fn.relu(self.fc3(z)))), mu, logvar


def binary_pictures(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Squares, and their size, which is not used."""
    x, sizes = torch.zeros(16, 1, 8, 8), torch.randint(2, 6, (16,), generator=generator)
    for image, size in zip(x, sizes.tolist(), strict=True):
        image[:, 1 : 1 + size, 2 : 2 + size] = 1.0
    return x, sizes


def elbo(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Summed over pixels and codes, and over the batch, as in the example; divided by the batch."""
    x, _ = batch
    rebuilt, mu, logvar = model(x)
    bce = fn.binary_cross_entropy(rebuilt, x.view(-1, 64), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (bce + kld) / len(x)


# --------------------------------------------------------------------------------------------- VAE, Gaussian, free bits
class GaussianVAE(nn.Module):
    """A learned noise of the observations; distributions as objects."""

    def __init__(self, size: int = 10, code: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(size, 32), nn.ELU(), nn.Linear(32, 2 * code))
        self.decoder = nn.Sequential(nn.Linear(code, 32), nn.ELU(), nn.Linear(32, size))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Posterior and likelihood."""
        mean, raw = self.encoder(x).chunk(2, -1)
        posterior = Normal(mean, fn.softplus(raw) + 1e-4)
        return {"posterior": posterior, "likelihood": Normal(self.decoder(posterior.rsample()), self.log_scale.exp())}


def free_bits_loss(model: nn.Module, x: Tensor, free: float = 0.05) -> Tensor:
    """A code costs nothing below some nats, so that it is not given up early."""
    out = model(x)
    prior = Normal(torch.zeros_like(out["posterior"].mean), 1.0)
    kl = kl_divergence(out["posterior"], prior).mean(0).clamp(min=free).sum()
    return kl - out["likelihood"].log_prob(x).sum(-1).mean()


def on_a_plane(generator: torch.Generator) -> Tensor:
    """Points near a plane in ten dimensions."""
    axes = torch.linspace(-1, 1, 20).view(2, 10)
    return torch.randn(32, 2, generator=generator) @ axes + 0.1 * torch.randn(32, 10, generator=generator)


# ------------------------------------------------------------------------------------------------------------ VQ-VAE
class Quantized(NamedTuple):
    """Codes, their part of the loss, their numbers."""

    z: Tensor
    loss: Tensor
    index: Tensor


class LearnedCodebook(nn.Module):
    """The nearest code on the sphere (Yu et al. 2022); gradients pass straight through."""

    def __init__(self, codes: int = 16, size: int = 8, beta: float = 0.25) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, size)
        self.beta = beta

    def forward(self, z: Tensor) -> Quantized:
        """(B, T, D) to the same."""
        z, codes = fn.normalize(z, dim=-1), fn.normalize(self.embedding.weight, dim=-1)
        index = torch.einsum("btd,cd->btc", z, codes).argmax(-1)
        q = codes[index]
        loss = (q - z.detach()).square().mean() + self.beta * (z - q.detach()).square().mean()
        return Quantized(z + (q - z).detach(), loss, index)


class AveragedCodebook(nn.Module):
    """Codes are moving averages of what was mapped to them; they have no gradient."""

    weight: Tensor
    size: Tensor
    total: Tensor

    def __init__(self, codes: int = 16, size: int = 8, decay: float = 0.9, beta: float = 0.25) -> None:
        super().__init__()
        self.decay, self.beta = decay, beta
        self.register_buffer("weight", torch.randn(codes, size) * 0.3)
        self.register_buffer("size", torch.ones(codes))
        self.register_buffer("total", self.weight.clone())

    @torch.no_grad()
    def update(self, flat: Tensor, index: Tensor) -> None:
        """With Laplace smoothing of the counts."""
        chosen = fn.one_hot(index, len(self.weight)).to(flat)
        self.size.lerp_(chosen.sum(0), 1 - self.decay)
        self.total.lerp_(chosen.T @ flat, 1 - self.decay)
        n, eps = self.size.sum(), 1e-5
        smoothed = (self.size + eps) / (n + len(self.weight) * eps) * n
        self.weight.copy_(self.total / smoothed[:, None])

    def forward(self, z: Tensor) -> Quantized:
        """(B, T, D) to the same; in training the codes move afterwards."""
        flat = z.detach().flatten(0, -2)
        index = (flat[:, None] - self.weight).square().sum(-1).argmin(-1)
        q = fn.embedding(index, self.weight.clone()).view_as(z)
        if self.training:
            self.update(flat, index)
        return Quantized(z + (q - z).detach(), self.beta * fn.mse_loss(z, q), index.view(z.shape[:-1]))


class VQVAE(nn.Module):
    """A wave in pieces, a code for each piece."""

    def __init__(self, codebook: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv1d(16, 8, 4, 2, 1))
        self.codebook = codebook
        self.decoder = nn.Sequential(nn.ConvTranspose1d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(16, 1, 4, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        """The wave rebuilt, and the codes."""
        quantized = self.codebook(self.encoder(x).transpose(1, 2))
        return self.decoder(quantized.z.transpose(1, 2)), quantized


def short_waves(generator: torch.Generator) -> Tensor:
    """(B, 1, 32)."""
    start, speed = torch.rand(2, 8, 1, 1, generator=generator)
    return torch.sin(6.28 * start + (0.2 + 0.5 * speed) * torch.arange(32))


def vq_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Rebuilding and commitment."""
    rebuilt, quantized = model(x)
    return fn.mse_loss(rebuilt, x) + quantized.loss


# ------------------------------------------------------------------------------------------------------ coupling flow
class Coupling(nn.Module):
    """RealNVP: half of the numbers say how the others are scaled and shifted; the last layer starts at zero."""

    def __init__(self, size: int, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        last = nn.Linear(32, size)
        nn.init.constant_(last.weight, 0.0)
        nn.init.constant_(last.bias, 0.0)
        self.net = nn.Sequential(nn.Linear(size // 2, 32), nn.Tanh(), last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Moved points, and the log of the determinant."""
        a, b = reversed(x.chunk(2, -1)) if self.flip else x.chunk(2, -1)
        log_scale, shift = self.net(a).chunk(2, -1)
        log_scale = torch.tanh(log_scale)
        moved = b * log_scale.exp() + shift
        return torch.cat((moved, a) if self.flip else (a, moved), -1), log_scale.sum(-1)


class Flow(nn.Module):
    """Couplings one after another."""

    def __init__(self, size: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Coupling(size, bool(i % 2)) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """The log density, under a standard normal base."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return total - 0.5 * (x.square().sum(-1) + x.shape[-1] * math.log(2 * math.pi))


def skewed(generator: torch.Generator) -> Tensor:
    """Points whose coordinates depend on each other."""
    x = torch.randn(64, 4, generator=generator)
    x[:, 1] = 0.5 * x[:, 1] + x[:, 0] ** 2 - 1
    x[:, 3] = 2.0 + 0.3 * x[:, 3] - x[:, 2]
    return x


# ------------------------------------------------------------------------------------------------- masked densities
class MaskedLinear(nn.Linear):
    """Some weights are always zero."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """As a linear layer."""
        return fn.linear(input, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Germain et al. 2015: a bit depends on those before it alone."""

    def __init__(self, bits: int = 12, hidden: int = 36) -> None:
        super().__init__()
        place, order = torch.arange(bits), torch.arange(hidden) % (bits - 1)
        into = (order[:, None] >= place).float()
        out = (place[:, None] > order).float()
        self.net = nn.Sequential(MaskedLinear(into), nn.ReLU(), MaskedLinear(out))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the bits."""
        return self.net(x)


def bits(generator: torch.Generator) -> Tensor:
    """Each second bit repeats the one before it."""
    return (torch.rand(32, 6, generator=generator) < 0.4).float().repeat_interleave(2, 1)


# ------------------------------------------------------------------------------------------------------ relaxed choices
class GumbelVAE(nn.Module):
    """Codes of one among several, chosen hard forward and softly backward (Jang et al. 2017)."""

    def __init__(self, groups: int = 4, kinds: int = 5) -> None:
        super().__init__()
        self.groups, self.kinds = groups, kinds
        self.encoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, groups * kinds))
        self.decoder = nn.Sequential(nn.Linear(groups * kinds, 32), nn.ReLU(), nn.Linear(32, 12))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the bits, and log probabilities of the choices."""
        logits = self.encoder(x).view(-1, self.groups, self.kinds)
        chosen = fn.gumbel_softmax(logits, tau=1.0, hard=True)
        return self.decoder(chosen.flatten(1)), logits.log_softmax(-1)


def gumbel_loss(model: Any, x: Tensor) -> Tensor:
    """The bits, and the divergence of the choices from uniform."""
    logits, log_q = model(x)
    kl = (log_q.exp() * (log_q + math.log(model.kinds))).sum((1, 2)).mean()
    return fn.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean() + kl


def adam(rate: float) -> Any:
    """Adam at this rate."""
    return lambda model: torch.optim.Adam(model.parameters(), lr=rate)


SUBJECTS = {
    "vae": lambda: Subject(
        name="vae", model=VAE, batch=binary_pictures, loss=elbo, causal=False, optimizer=adam(1e-3)
    ),
    "gaussian vae": lambda: Subject(
        name="gaussian vae", model=GaussianVAE, batch=on_a_plane, loss=free_bits_loss, causal=False
    ),
    "vq-vae": lambda: Subject(
        name="vq-vae", model=lambda: VQVAE(LearnedCodebook()), batch=short_waves, loss=vq_loss, causal=False,
        optimizer=adam(3e-3),
    ),
    "vq-vae by averages": lambda: Subject(
        name="vq-vae by averages", model=lambda: VQVAE(AveragedCodebook()), batch=short_waves, loss=vq_loss,
        causal=False,
    ),
    "coupling flow": lambda: Subject(
        name="coupling flow", model=Flow, batch=skewed, loss=lambda model, x: -model(x).mean(), causal=False,
        optimizer=lambda model: torch.optim.NAdam(model.parameters(), lr=2e-3),
    ),
    "masked densities": lambda: Subject(
        name="masked densities", model=MADE, batch=bits, causal=False, optimizer=adam(1e-2),
        loss=lambda model, x: fn.binary_cross_entropy_with_logits(model(x), x, reduction="none").sum(-1).mean(),
    ),
    "gumbel vae": lambda: Subject(
        name="gumbel vae", model=GumbelVAE, batch=bits, loss=gumbel_loss, causal=False, optimizer=adam(1e-2)
    ),
}  # fmt: skip
