"""Less common parts: fake quantization, reversed gradients, complex numbers, lazy layers, caches, early exits."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "written for this corpus"
CE = nn.CrossEntropyLoss()


# ---------------------------------------------------------------------------------------------------- fake quantization
class RoundSTE(torch.autograd.Function):
    """Rounds; the gradient passes as if it did not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - nothing to keep
        """To the nearest integer."""
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        """As it came."""
        return grads[0]


class QuantLinear(nn.Linear):
    """Weights of 4 bits with a scale for each row, activations of 8 bits with a scale that is learned (LSQ)."""

    def __init__(self, inp: int, out: int) -> None:
        super().__init__(inp, out)
        self.act_scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """As a linear layer."""
        scale = self.weight.detach().abs().amax(1, keepdim=True).clamp(min=1e-8) / 7
        weight = RoundSTE.apply((self.weight / scale).clamp(-7, 7)) * scale
        act = RoundSTE.apply((input / self.act_scale).clamp(-128, 127)) * self.act_scale
        return nn.functional.linear(act, weight, self.bias)


def blobs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Four classes of points."""
    y = torch.randint(4, (32,), generator=generator)
    return 2 * torch.eye(4, 8)[y] + 0.5 * torch.randn(32, 8, generator=generator), y


def quantized_training() -> Subject:
    """Trained as it will be deployed."""
    return Subject(
        name="fake quantization", batch=blobs, causal=False,
        model=lambda: nn.Sequential(QuantLinear(8, 32), nn.ReLU(), QuantLinear(32, 32), nn.ReLU(), QuantLinear(32, 4)),
        loss=lambda model, batch: CE(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- reversed gradients
class Reverse(torch.autograd.Function):
    """Ganin et al. 2016."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        """As it is."""
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Turned around."""
        return -ctx.strength * grads[0], None


class DANN(nn.Module):
    """Features that tell classes, and not from which domain they come."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.classes, self.domains = nn.Linear(32, 4), nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor, strength: float = 0.3) -> tuple[Tensor, Tensor]:
        """Logits of classes and of domains."""
        h = self.features(x)
        return self.classes(h), self.domains(Reverse.apply(h, strength))


def domain_adversarial() -> Subject:
    """Labels of the source alone."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        (source, label), (target, _) = blobs(generator), blobs(generator)
        return {"source": source, "target": target + 1.0, "label": label}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        classes, source = model(batch["source"])
        _, target = model(batch["target"])
        zeros = torch.zeros(len(source), dtype=torch.long)
        return CE(classes, batch["label"]) + CE(source, zeros) + CE(target, zeros + 1)

    return Subject(name="gradient reversal", model=DANN, batch=batch, loss=loss, causal=False)


# ------------------------------------------------------------------------------------------------------ complex numbers
class FNet(nn.Module):
    """Fourier transforms mix tokens; a classifier of sequences."""

    def __init__(self, width: int = 24, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(layers)
        )
        self.out = nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, 3)."""
        x = self.embed(ids)
        for i, feed in enumerate(self.feeds):
            x = self.norms[2 * i](x + torch.fft.fft2(x, norm="ortho").real)
            x = self.norms[2 * i + 1](x + feed(x))
        return self.out(x.mean(1))


class Holographic(nn.Module):
    """ComplEx (Trouillon et al. 2016): entities and relations as complex vectors."""

    def __init__(self, entities: int = 25, relations: int = 4, width: int = 12) -> None:
        super().__init__()
        self.entity = nn.Parameter(0.3 * torch.randn(entities, width, dtype=torch.cfloat))
        self.relation = nn.Parameter(0.3 * torch.randn(relations, width, dtype=torch.cfloat))

    def forward(self, head: Tensor, relation: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of all entities as tails, and the size of what was used (N3)."""
        h, r = self.entity[head], self.relation[relation]
        return (h * r @ self.entity.conj().T).real, (h.abs() ** 3 + r.abs() ** 3).sum(-1).mean()


def facts(generator: torch.Generator) -> Tensor:
    """Triples (B, 3)."""
    head, relation = torch.randint(25, (32,), generator=generator), torch.randint(4, (32,), generator=generator)
    return torch.stack([head, relation, (head + 3 * relation + 1) % 25], 1)


def fact_loss(model: nn.Module, triples: Tensor) -> Tensor:
    """Which tail?"""
    scores, size = model(triples[:, 0], triples[:, 1])
    return CE(scores, triples[:, 2]) + 0.01 * size


class FourierOperator(nn.Module):
    """Li et al. 2021: complex weights of the lowest frequencies."""

    def __init__(self, width: int = 16, modes: int = 5) -> None:
        super().__init__()
        self.lift, self.project, self.modes = nn.Linear(2, width), nn.Linear(width, 1), modes
        scale = 1 / width**2
        self.spectral = nn.ParameterList(scale * torch.rand(width, width, modes, dtype=torch.cfloat) for _ in range(2))
        self.local = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(2))

    def forward(self, a: Tensor) -> Tensor:
        """A function on a grid (B, N) to another."""
        grid = torch.linspace(0, 1, a.shape[1], device=a.device).expand_as(a)
        x = self.lift(torch.stack([a, grid], -1)).transpose(1, 2)
        for weight, local in zip(self.spectral, self.local, strict=True):
            low = torch.einsum("bim,iom->bom", torch.fft.rfft(x)[..., : self.modes], weight)
            x = nn.functional.gelu(torch.fft.irfft(low, n=a.shape[1]) + local(x))
        return self.project(x.transpose(1, 2)).squeeze(-1)


def integrals(generator: torch.Generator) -> dict[str, Tensor]:
    """Waves and their integrals."""
    k, phase = torch.randint(1, 4, (12, 1), generator=generator), 6.28 * torch.rand(12, 1, generator=generator)
    angle = 2 * math.pi * k * torch.linspace(0, 1, 32) + phase
    return {"a": angle.cos(), "u": (angle.sin() - phase.sin()) / k}


def relative_l2(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The error's norm over the function's."""
    u = batch["u"]
    return ((model(batch["a"]) - u).norm(dim=1) / u.norm(dim=1)).mean()


# -------------------------------------------------------------------------------------------- lazy layers, first passes
class LazyNet(nn.Module):
    """Layers that learn their sizes from the first batch, as they say themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.LazyConv1d(12, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(24), nn.ReLU(), nn.LazyLinear(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3)."""
        return self.net(x)


def lazy_model() -> nn.Module:
    """Run once, so that the optimizer sees its weights."""
    model = LazyNet()
    with torch.no_grad():
        model(torch.zeros(1, 2, 10))
    return model


class ActNormFlow(nn.Module):
    """Glow: scales and shifts are set from the first training batch; then they learn, as do the 1x1 mixings."""

    ready: Tensor

    def __init__(self, size: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(layers, size)), nn.Parameter(torch.zeros(layers, size))
        self.mix = nn.Parameter(torch.stack([torch.linalg.qr(torch.randn(size, size))[0] for _ in range(layers)]))
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(size // 2, 24), nn.ReLU(), nn.Linear(24, size)) for _ in range(layers)
        )
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """Log density."""
        log_det = x.new_zeros(len(x))
        for i, net in enumerate(self.nets):
            if self.training and not self.ready:
                with torch.no_grad():
                    self.shift[i] = -x.mean(0)
                    self.log_scale[i] = -x.std(0).clamp(min=1e-3).log()
            x = (x + self.shift[i]) * self.log_scale[i].exp() @ self.mix[i]
            a, b = x.chunk(2, -1)
            scale, shift = net(a).chunk(2, -1)
            scale = torch.sigmoid(scale + 2)
            x = torch.cat([a, b * scale + shift], -1)
            log_det = log_det + self.log_scale[i].sum() + torch.linalg.slogdet(self.mix[i])[1] + scale.log().sum(-1)
        self.ready.fill_(True)
        return log_det - 0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighboring numbers turned against each other."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class CachedMask(nn.Module):
    """A decoder that keeps its mask and its rotations for the longest sequence so far."""

    def __init__(self, width: int = 24, heads: int = 3, vocab: int = 40) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(vocab, width), nn.Linear(width, vocab)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads = heads
        self._cache: dict[str, Tensor] = {}

    def tables(self, length: int, device: torch.device) -> dict[str, Tensor]:
        """Made anew when a longer sequence comes."""
        if not self._cache or len(self._cache["cos"]) < length:
            rate = 10000.0 ** (-torch.arange(0, 8, 2, device=device) / 8)
            angle = torch.arange(length, device=device)[:, None] * rate
            ahead = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
            self._cache = {"cos": angle.cos(), "sin": angle.sin(), "ahead": ahead}
        return self._cache

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T, V)."""
        B, T = ids.shape
        tables, x = self.tables(T, ids.device), self.embed(ids)
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        cos, sin = tables["cos"][:T], tables["sin"][:T]
        scores = (rotated(q, cos, sin) @ rotated(k, cos, sin).mT / q.shape[-1] ** 0.5).masked_fill(
            tables["ahead"][:T, :T], -torch.inf
        )
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1))
        return self.out(self.norm3(x + self.mlp(self.norm2(x))))


def any_size(generator: torch.Generator) -> dict[str, Tensor]:
    """Batches by a number of tokens: short rows come in greater number."""
    length = int(torch.randint(8, 25, (1,), generator=generator))
    ids = torch.randint(40, (96 // length, length + 1), generator=generator)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def cached_mask() -> Subject:
    """Sizes change from batch to batch."""

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        count, total = sum(batch["labels"].numel() for batch in batches), 0.0
        optimizer.zero_grad()
        for batch in batches:
            logits = model(batch["input_ids"]).flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum") / count
            loss.backward()
            total += loss.item()
        optimizer.step()
        return {"loss": total}

    return Subject(
        name="cached mask", model=CachedMask, batch=any_size, train_step=train_step,
        loss=lambda model, batch: CE(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten()),
        logits=lambda model, batch: model(batch["input_ids"]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- exits
class DeepEquilibrium(nn.Module):
    """A fixed point found without a graph; one more application gives the gradient (a one-step approximation)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.inject, self.cell, self.out = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 4)
        nn.init.orthogonal_(self.cell.weight, gain=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4)."""
        u = self.inject(x)
        with torch.no_grad():
            z = torch.zeros_like(u)
            for _ in range(20):
                z = torch.tanh(self.cell(z) + u)
        return self.out(torch.tanh(self.cell(z) + u))


def points(name: str, model: Any) -> Subject:
    """Classes of points."""
    return Subject(
        name=name, model=model, batch=blobs, loss=lambda model, batch: CE(model(batch[0]), batch[1]), causal=False
    )


SUBJECTS = {
    "fake quantization": quantized_training,
    "gradient reversal": domain_adversarial,
    "fnet": lambda: Subject(
        name="fnet", model=FNet, causal=False, loss=lambda model, batch: CE(model(batch["ids"]), batch["label"]),
        batch=lambda generator: {
            "ids": torch.randint(30, (12, 16), generator=generator),
            "label": torch.randint(3, (12,), generator=generator),
        },
    ),
    "complex entities": lambda: Subject(
        name="complex entities", model=Holographic, batch=facts, loss=fact_loss, causal=False,
        optimizer=lambda model: torch.optim.Adagrad(model.parameters(), lr=0.1),
    ),
    "fourier operator": lambda: Subject(
        name="fourier operator", model=FourierOperator, batch=integrals, loss=relative_l2, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
    ),
    "lazy layers": lambda: Subject(
        name="lazy layers", model=lazy_model, causal=False,
        batch=lambda generator: (torch.randn(12, 2, 10, generator=generator), torch.arange(12) % 3),
        loss=lambda model, batch: CE(model(batch[0]), batch[1]),
    ),
    "actnorm flow": lambda: Subject(
        name="actnorm flow", model=ActNormFlow, loss=lambda model, x: -model(x).mean(), causal=False,
        batch=lambda generator: 3 + torch.randn(48, 4, generator=generator) @ (torch.eye(4) + torch.ones(4, 4).tril()),
    ),
    "cached mask": cached_mask,
    "deep equilibrium": lambda: points("deep equilibrium", DeepEquilibrium),
}  # fmt: skip
