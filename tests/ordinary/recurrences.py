"""Sequence models without softmax attention: state spaces, linear attention, retention, RWKV, minimal gates."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.verify import Subject

SOURCE = "written for this corpus"
VOCAB, DIM = 61, 32


class SequenceLM(nn.Module):
    """Pre-norm residual layers of one kind between an embedding and a head."""

    def __init__(self, mixer: Any, depth: int = 2, feed_forward: Any = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        self.mixers = nn.ModuleList(mixer() for _ in range(depth))
        self.forwards = nn.ModuleList((feed_forward or GLU)() for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2 * depth + 1))
        self.head = nn.Linear(DIM, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        x = self.embed(ids)
        for i, (mixer, ff) in enumerate(zip(self.mixers, self.forwards, strict=True)):
            x = x + mixer(self.norms[2 * i](x))
            x = x + ff(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x))


class GLU(nn.Module):
    """Gated by SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(2 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        gate, value = self.up(x).chunk(2, -1)
        return self.down(functional.silu(gate) * value)


def token_batch(generator: torch.Generator) -> Tensor:
    """Tokens alone; the loss shifts them."""
    return torch.randint(VOCAB, (4, 18), generator=generator)


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """By hand: the log of the sum less the target's logit."""
    logits = model(ids[:, :-1])
    target = ids[:, 1:].unsqueeze(-1)
    return (logits.logsumexp(-1) - logits.gather(-1, target).squeeze(-1)).mean()


def language_subject(name: str, mixer: Any, feed_forward: Any = None, **parts: Any) -> Subject:
    """A language model with this mixer."""
    return Subject(
        name=name,
        model=lambda: SequenceLM(mixer, feed_forward=feed_forward),
        batch=token_batch,
        loss=next_token_loss,
        logits=lambda model, ids: model(ids),
        recurrent=True,
        **parts,
    )


# -------------------------------------------------------------------------------------------------- linear attention
class LinearAttention(nn.Module):
    """Katharopoulos et al. 2020: elu(x) + 1 as feature map, running sums of key-value products."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, -1))
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        memory = torch.einsum("bthd,bthe->bthde", k, v).cumsum(1)
        numerator = torch.einsum("bthd,bthde->bthe", q, memory)
        denominator = torch.einsum("bthd,bthd->bth", q, k.cumsum(1)).unsqueeze(-1)
        return self.out((numerator / denominator).flatten(2))


# --------------------------------------------------------------------------------------------------------- retention
class Retention(nn.Module):
    """RetNet's parallel form: a decay for each head, group norm, a swish gate."""

    decay: Tensor

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        self.gate, self.out = nn.Linear(DIM, DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.norm = nn.GroupNorm(heads, DIM)
        self.register_buffer("decay", 1 - torch.exp2(-5 - torch.arange(heads, dtype=torch.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        batch, time, _ = x.shape
        q, k, v = (f(x).view(batch, time, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        steps = torch.arange(time, device=x.device)
        age = steps[:, None] - steps
        weight = torch.where(age >= 0, self.decay[:, None, None] ** age.clamp(min=0), 0.0)
        kept = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) * weight) @ v
        normed = self.norm(kept.transpose(1, 2).reshape(batch * time, -1)).view(batch, time, -1)
        return self.out(functional.silu(self.gate(x)) * normed)


# ------------------------------------------------------------------------------------------------ selective state space
class SelectiveSSM(nn.Module):
    """Mamba's block: a short causal convolution, then a scan whose step size, B and C depend on the input."""

    def __init__(self, inner: int = 2 * DIM, state: int = 8, rank: int = 4, kernel: int = 4) -> None:
        super().__init__()
        self.rank, self.state = rank, state
        self.in_proj = nn.Linear(DIM, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, DIM, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        step = torch.exp(torch.rand(inner) * (math.log(0.1) - math.log(0.001)) + math.log(0.001)).clamp(min=1e-4)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step

    def forward(self, u: Tensor) -> Tensor:
        """The same shape."""
        x, gate = self.in_proj(u).chunk(2, -1)
        x = functional.silu(self.conv(x.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        dt, B, C = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        dt = functional.softplus(self.dt_proj(dt))
        keep = torch.exp(dt[..., None] * -self.A_log.exp())
        add = (dt * x)[..., None] * B[:, :, None]
        h, outputs = torch.zeros_like(add[:, 0]), []
        for t in range(u.shape[1]):
            h = keep[:, t] * h + add[:, t]
            outputs.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
        return self.out_proj((torch.stack(outputs, 1) + self.D * x) * functional.silu(gate))


def mamba() -> Subject:
    """A_log and D are not decayed."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        named = list(model.named_parameters())
        plain = [p for n, p in named if p.ndim < 2 or n.endswith("A_log")]
        decayed = [p for n, p in named if not (p.ndim < 2 or n.endswith("A_log"))]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.95))

    return language_subject("selective state space", SelectiveSSM, optimizer=optimizer)


# ------------------------------------------------------------------------------------------------------------- RWKV
def shifted(x: Tensor) -> Tensor:
    """Each place holds the one before it; the first, zeros."""
    return functional.pad(x, (0, 0, 1, -1))


class TimeMix(nn.Module):
    """RWKV-4's: exponentially decayed averages of values, a bonus for the present, kept stable by a running maximum."""

    def __init__(self) -> None:
        super().__init__()
        ramp = torch.linspace(0, 1, DIM)
        self.time_decay = nn.Parameter(-5 + 8 * ramp**0.7)
        self.time_first = nn.Parameter(torch.full((DIM,), math.log(0.3)))
        self.mix_k, self.mix_v, self.mix_r = (nn.Parameter(ramp.clone()) for _ in range(3))
        self.key, self.value, self.receptance = (nn.Linear(DIM, DIM, bias=False) for _ in range(3))
        self.output = nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        last = shifted(x)
        k = self.key(torch.lerp(last, x, self.mix_k))
        v = self.value(torch.lerp(last, x, self.mix_v))
        r = torch.sigmoid(self.receptance(torch.lerp(last, x, self.mix_r)))
        decay = -torch.exp(self.time_decay)
        num = den = torch.zeros_like(k[:, 0])
        top, out = torch.full_like(num, -1e38), []
        for key, value in zip(k.unbind(1), v.unbind(1), strict=True):
            high = torch.maximum(top, self.time_first + key)
            old, new = torch.exp(top - high), torch.exp(self.time_first + key - high)
            out.append((old * num + new * value) / (old * den + new))
            high = torch.maximum(top + decay, key)
            old, new = torch.exp(top + decay - high), torch.exp(key - high)
            num, den, top = old * num + new * value, old * den + new, high
        return self.output(r * torch.stack(out, 1))


class ChannelMix(nn.Module):
    """Squared ReLU behind a gate, both of the token and the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.linspace(0, 1, DIM))
        self.key, self.value = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(3 * DIM, DIM, bias=False)
        self.receptance = nn.Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        mixed = torch.lerp(shifted(x), x, self.mix)
        return torch.sigmoid(self.receptance(mixed)) * self.value(self.key(mixed).relu().square())


# ------------------------------------------------------------------------------------------------------ minimal gates
class MinGRU(nn.Module):
    """Feng et al. 2024: a gated average whose gate and candidate see the input alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.candidate, self.out = nn.Linear(DIM, 48), nn.Linear(DIM, 48), nn.Linear(48, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        z, h = torch.sigmoid(self.gate(x)), self.candidate(x)
        state, states = torch.zeros_like(h[:, 0]), []
        for t in range(x.shape[1]):
            state = torch.lerp(state, h[:, t], z[:, t])
            states.append(state)
        return self.out(torch.stack(states, 1))


# ----------------------------------------------------------------------------------------- diagonal state space, by FFT
class S4D(nn.Module):
    """A diagonal complex state space as one long convolution (Gu et al. 2022)."""

    def __init__(self, width: int, states: int = 8) -> None:
        super().__init__()
        self.log_dt = nn.Parameter(torch.rand(width) * (math.log(0.1) - math.log(0.001)) + math.log(0.001))
        self.C = nn.Parameter(torch.randn(width, states, dtype=torch.cfloat))
        self.log_real = nn.Parameter(torch.full((width, states), math.log(0.5)))
        self.imag = nn.Parameter(math.pi * torch.arange(states).repeat(width, 1))
        self.D = nn.Parameter(torch.randn(width))

    def forward(self, u: Tensor) -> Tensor:
        """(B, C, T) to the same."""
        length = u.size(-1)
        A = torch.complex(-torch.exp(self.log_real), self.imag)
        step_A = A * torch.exp(self.log_dt)[:, None]
        powers = torch.exp(step_A[..., None] * torch.arange(length, device=u.device))
        kernel = 2 * torch.einsum("cn,cnt->ct", self.C * torch.expm1(step_A) / A, powers).real
        spectrum = torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length)
        return torch.fft.irfft(spectrum, n=2 * length)[..., :length] + u * self.D[:, None]


class SignalClassifier(nn.Module):
    """Two such layers over raw samples."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(1, width), nn.Linear(width, classes)
        self.layers = nn.ModuleList(S4D(width) for _ in range(2))
        self.mixes = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, samples: Tensor) -> Tensor:
        """(B, T) to logits (B, classes)."""
        x = self.encoder(samples[..., None]).transpose(1, 2)
        for layer, mix, norm in zip(self.layers, self.mixes, self.norms, strict=True):
            z = functional.glu(mix(functional.gelu(layer(x))), dim=1)
            x = norm((x + z).transpose(1, 2)).transpose(1, 2)
        return self.decoder(x.mean(-1))


def signals() -> Subject:
    """Which of four frequencies."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        kind = torch.randint(4, (12,), generator=generator)
        phase = torch.rand(12, 1, generator=generator) * 2 * math.pi
        wave = torch.sin(torch.arange(32) * 0.25 * (kind[:, None] + 1) + phase)
        return {"samples": wave + 0.1 * torch.randn(wave.shape, generator=generator), "kind": kind}

    return Subject(
        name="diagonal state space",
        model=SignalClassifier,
        batch=batch,
        loss=lambda model, batch: functional.cross_entropy(model(batch["samples"]), batch["kind"]),
        causal=False,
        recurrent=True,
    )


SUBJECTS = {
    "linear attention": lambda: language_subject("linear attention", LinearAttention),
    "retention": lambda: language_subject("retention", Retention),
    "selective state space": mamba,
    "rwkv": lambda: language_subject("rwkv", TimeMix, ChannelMix),
    "minimal gru": lambda: language_subject("minimal gru", MinGRU),
    "diagonal state space": signals,
}
