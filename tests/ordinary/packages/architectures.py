"""Architectures of small packages: experts, streams, state spaces, latents, sines, symmetries, circuits."""

import random
from typing import Any

import torch
from egnn_pytorch import EGNN_Network
from hyper_connections import get_init_and_expand_reduce_stream_functions
from mambapy.mamba import Mamba, MambaConfig
from mixture_of_experts import MoE as PaddedMoE
from ncps.torch import LTC, CfC
from ncps.wirings import AutoNCP
from perceiver_pytorch import PerceiverIO
from siren_pytorch import SirenNet
from soft_moe_pytorch import SoftMoE
from st_moe_pytorch import MoE, SparseMoEBlock
from titans_pytorch import MemoryAsContextTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = (
    "soft-moe-pytorch 0.1.9, st-moe-pytorch 0.1.8, mixture-of-experts 0.2.3, hyper-connections 0.4.11, mambapy 1.2.0, "
    "perceiver-pytorch 0.11.0, siren-pytorch 0.1.7, egnn-pytorch 0.2.8, titans-pytorch 0.5.5, ncps 1.0.1"
)

VOCAB = 36


def strides(generator: torch.Generator, length: int = 17) -> Tensor:
    """Rows of their own stride."""
    start = torch.randint(0, VOCAB, (6, 1), generator=generator)
    return (start + torch.randint(1, 4, (6, 1), generator=generator) * torch.arange(length)) % VOCAB


def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs, and the same one later."""
    rows = strides(generator)
    return rows[:, :-1], rows[:, 1:]


class Causal(nn.Module):
    """Self-attention that looks back, with a norm before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to x."""
        y = self.norm(x)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]


class Routed(nn.Module):
    """One block whose feed-forward layer is given; it returns what the router asks for, too."""

    def __init__(self, experts: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.places = nn.Parameter(torch.randn(32, width) * 0.02)
        self.mix = Causal(width)
        self.norm = nn.LayerNorm(width)
        self.experts = experts
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the router's loss."""
        x = self.embed(tokens) + self.places[: tokens.shape[1]]
        x = x + self.mix(x)
        out = self.experts(self.norm(x))
        return self.head(x + out[0]), out[1]


def routed_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy plus the router's part, which carries its own weight."""
    logits, auxiliary = model(batch[0])
    return F.cross_entropy(logits.flatten(0, 1), batch[1].flatten()) + auxiliary


def st_moe() -> Subject:
    """ST-MoE: two of four experts, a balance and a z loss, limited capacity, noise off."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            experts = MoE(dim=32, num_experts=4, gating_top_n=2, expert_hidden_mult=2)
            self.block = SparseMoEBlock(experts, add_ff_before=True, add_ff_after=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out, total, _, _ = self.block(x)
            return out, total

    return Subject(
        name="st-moe-decoder",
        model=lambda: Routed(Block()),
        batch=pair,
        loss=routed_loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
        causal=False,
        mixture_of_experts=True,
    )


def padded_moe() -> Subject:
    """Mixture-of-experts: the second expert of a token is taken at random, by its weight."""
    return Subject(
        name="mixture-of-experts-decoder",
        model=lambda: Routed(PaddedMoE(dim=32, num_experts=4, hidden_dim=48)),
        batch=pair,
        loss=routed_loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        causal=False,
        mixture_of_experts=True,
    )


def soft_moe() -> Subject:
    """Soft mixture: each slot is a mean of all patches; pictures are sorted by where they are bright."""

    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(1, 32, 4, 4)
            self.experts = SoftMoE(dim=32, seq_len=16, num_experts=4, expert_mult=2)
            self.classify = nn.Linear(32, 4)

        def forward(self, image: Tensor) -> Tensor:
            x = self.cut(image).flatten(2).transpose(1, 2)
            x = x + self.experts(x)
            return self.classify(x.mean(1))

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        kind = torch.randint(0, 4, (8,), generator=generator)
        wave = torch.sin(torch.arange(16.0) * (0.3 + 0.4 * kind.unsqueeze(1)))
        return {"image": wave.view(8, 1, 1, 16) + 0.3 * torch.randn(8, 1, 16, 16, generator=generator), "kind": kind}

    return Subject(
        name="soft-moe-patches",
        model=Patches,
        batch=batch,
        loss=lambda model, batch: F.cross_entropy(model(batch["image"]), batch["kind"]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
        causal=False,
        mixture_of_experts=True,
    )


class Streams(nn.Module):
    """A decoder of four residual streams."""

    def __init__(self, width: int = 24, streams: int = 4) -> None:
        super().__init__()
        connect, self.expand, self.reduce = get_init_and_expand_reduce_stream_functions(streams)
        self.embed = nn.Embedding(VOCAB, width)
        self.places = nn.Embedding(32, width)
        branches = [Causal(width), self.feed(width), Causal(width), self.feed(width)]
        self.layers = nn.ModuleList(
            connect(dim=width, branch=branch, layer_index=place) for place, branch in enumerate(branches)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)

    @staticmethod
    def feed(width: int) -> nn.Module:
        """A feed-forward branch."""
        return nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.expand(self.embed(tokens) + self.places(torch.arange(tokens.shape[1])))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(self.reduce(x)))


def hyper_connections() -> Subject:
    """Hyper-connections: learned ways into and out of each branch, dynamic parts that start at zero."""
    return Subject(
        name="hyper-connections-decoder",
        model=Streams,
        batch=pair,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]).transpose(1, 2), batch[1]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
    )


def mamba() -> Subject:
    """A Mamba by a parallel scan in plain torch."""
    config = MambaConfig(d_model=16, n_layers=2, d_state=8, d_conv=4, expand_factor=2)
    return Subject(
        name="mambapy-decoder",
        model=lambda: nn.Sequential(nn.Embedding(VOCAB, 16), Mamba(config), nn.LayerNorm(16), nn.Linear(16, VOCAB)),
        batch=pair,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten()),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95)),
        recurrent=True,
    )


def titans() -> Subject:
    """Titans, memory as context: a memory whose weights are learned inside the forward pass."""

    def build() -> nn.Module:
        random.seed(torch.initial_seed())  # its streams are placed by Python's generator
        return MemoryAsContextTransformer(
            num_tokens=VOCAB, dim=16, depth=1, segment_len=8, num_persist_mem_tokens=2, num_longterm_mem_tokens=2,
            dim_head=8, heads=2, neural_memory_layers=(1,), neural_memory_segment_len=4,
            neural_memory_kwargs={"dim_head": 16, "heads": 1},
        )  # fmt: skip

    return Subject(
        name="titans-decoder",
        model=build,
        batch=strides,
        loss=lambda model, tokens: model(tokens, return_loss=True),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
        recurrent=True,
    )


def perceiver() -> Subject:
    """Perceiver IO: a set of points is read into latents, and asked at places for its density."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        center = torch.randn(16, 1, 3, generator=generator)
        points = center + 0.5 * torch.randn(16, 20, 3, generator=generator)
        places = torch.randn(16, 8, 3, generator=generator)
        return points, places, torch.exp(-(places - center).square().sum(-1) / 4)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        points, places, density = batch
        return F.mse_loss(model(points, queries=places).squeeze(-1), density)

    return Subject(
        name="perceiver-io-density",
        model=lambda: PerceiverIO(
            dim=3,
            queries_dim=3,
            logits_dim=1,
            depth=1,
            num_latents=8,
            latent_dim=16,
            cross_dim_head=8,
            latent_heads=2,
            latent_dim_head=8,
        ),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        causal=False,
    )


def siren() -> Subject:
    """A SIREN that fits a picture by its slope: the loss is on the derivative of the network by its input."""

    def batch(generator: torch.Generator) -> Tensor:
        return torch.rand(128, 2, generator=generator) * 2 - 1

    def loss(model: Any, place: Tensor) -> Tensor:
        x = place.clone().requires_grad_()
        height = model(x)
        slope = torch.autograd.grad(height.sum(), x, create_graph=True)[0]
        wanted = torch.stack([3 * torch.cos(3 * place[:, 0]), -2 * torch.sin(2 * place[:, 1])], dim=1)
        level = height.squeeze(-1) - torch.sin(3 * place[:, 0]) - torch.cos(2 * place[:, 1])
        return (slope - wanted).square().sum(-1).mean() + level.square().mean()

    return Subject(
        name="siren-slopes",
        model=lambda: SirenNet(dim_in=2, dim_hidden=32, dim_out=1, num_layers=3, w0_initial=10.0),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
        causal=False,
    )


def egnn() -> Subject:
    """An equivariant network that moves particles a step on; the last features' own update goes unused."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        place = torch.randn(4, 6, 3, generator=generator)
        charge = torch.randint(0, 2, (4, 6), generator=generator)
        sign = (2.0 * charge - 1).unsqueeze(-1)
        apart = place.unsqueeze(2) - place.unsqueeze(1)
        force = (sign.unsqueeze(2) * sign.unsqueeze(1)) * apart / (apart.square().sum(-1, keepdim=True) + 1.0)
        return {"place": place, "charge": charge, "after": place + force.sum(2)}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        _, moved = model(batch["charge"], batch["place"])
        return F.mse_loss(moved, batch["after"])

    return Subject(
        name="egnn-particles",
        model=lambda: EGNN_Network(num_tokens=2, dim=16, depth=2, m_dim=8),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


class Steering(nn.Module):
    """A recurrent circuit that returns the wheel's angle at each time."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, view: Tensor) -> Tensor:
        """(rows, time, 1)."""
        return self.cell(view)[0]


def road(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two sensors over time, and a lagging mean of their difference."""
    view = torch.sin(torch.arange(12.0).view(1, -1, 1) * torch.rand(8, 1, 2, generator=generator) * 2)
    difference = view[..., :1] - view[..., 1:]
    angle = torch.zeros_like(difference)
    for time in range(1, 12):
        angle[:, time] = 0.6 * angle[:, time - 1] + 0.4 * difference[:, time]
    return view, angle


def cfc() -> Subject:
    """Closed-form continuous-time cells, all connected."""
    return Subject(
        name="ncps-cfc",
        model=lambda: Steering(CfC(2, 16, proj_size=1)),
        batch=road,
        loss=lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        recurrent=True,
    )


def ltc() -> Subject:
    """Liquid time constants on the sparse wiring of a neural circuit policy; absent synapses stay at their weights."""
    return Subject(
        name="ncps-ltc-wired",
        model=lambda: Steering(LTC(2, AutoNCP(12, 1, seed=1))),
        batch=road,
        loss=lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        recurrent=True,
    )


SUBJECTS = {
    "st-moe-decoder": st_moe,
    "mixture-of-experts-decoder": padded_moe,
    "soft-moe-patches": soft_moe,
    "hyper-connections-decoder": hyper_connections,
    "mambapy-decoder": mamba,
    "titans-decoder": titans,
    "perceiver-io-density": perceiver,
    "siren-slopes": siren,
    "egnn-particles": egnn,
    "ncps-cfc": cfc,
    "ncps-ltc-wired": ltc,
}
