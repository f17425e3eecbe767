"""Decoders that differ in how layers are put together: parallel, scaled, dropped, shared, with several streams."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "written for this corpus"
V, C, T = 59, 32, 20
Pair = namedtuple("Pair", ["x", "y"])  # noqa: PYI024 - as it is often written


class Attention(nn.Module):
    """Causal, by torch's kernel."""

    def __init__(self, heads: int = 4, normed: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(C, 3 * C, bias=False)
        self.proj = nn.Linear(C, C, bias=False)
        self.qk_norm = nn.RMSNorm(C // heads) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(self.qk_norm(q), self.qk_norm(k), v, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, squared: bool = False) -> None:
        super().__init__()
        self.fc, self.proj, self.squared = nn.Linear(C, 4 * C, bias=False), nn.Linear(4 * C, C, bias=False), squared

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        h = self.fc(x)
        return self.proj(h.relu() ** 2 if self.squared else nn.functional.gelu(h))


class Sequential(nn.Module):
    """The usual block."""

    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2, self.attn, self.mlp = nn.LayerNorm(C), nn.LayerNorm(C), Attention(), MLP()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x + self.attn(self.n1(x))
        return x + self.mlp(self.n2(x))


class Parallel(nn.Module):
    """Attention and MLP read the same norm, and are added at once (GPT-J, PaLM)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(C), Attention(), MLP()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        h = self.norm(x)
        return x + self.attn(h) + self.mlp(h)


class ReZero(nn.Module):
    """No norms; a scalar that starts at zero before each sum (Bachlechner et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(), MLP()
        self.alpha = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x + self.alpha[0] * self.attn(x)
        return x + self.alpha[1] * self.mlp(x)


class LayerScale(nn.Module):
    """A small learned scale for each channel of a branch (CaiT), and branches skipped for whole rows at random."""

    def __init__(self, skip: float = 0.0, initial: float = 1e-2) -> None:
        super().__init__()
        self.skip = skip
        self.n1, self.n2, self.attn, self.mlp = nn.LayerNorm(C), nn.LayerNorm(C), Attention(), MLP()
        self.gamma1, self.gamma2 = nn.Parameter(initial * torch.ones(C)), nn.Parameter(initial * torch.ones(C))

    def drop_path(self, branch: Tensor) -> Tensor:
        """Stochastic depth: what is kept is scaled up."""
        if not self.training or self.skip == 0:
            return branch
        keep = 1 - self.skip
        rows = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep)
        return branch * rows / keep

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x + self.drop_path(self.gamma1 * self.attn(self.n1(x)))
        return x + self.drop_path(self.gamma2 * self.mlp(self.n2(x)))


class HyperConnected(nn.Module):
    """Several residual streams, mixed by learned matrices around a branch (Zhu et al. 2024, static form)."""

    def __init__(self, branch: nn.Module, index: int, streams: int = 3) -> None:
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(C), branch
        self.read = nn.Parameter(nn.functional.one_hot(torch.tensor(index % streams), streams).float())
        self.mix = nn.Parameter(torch.eye(streams))
        self.write = nn.Parameter(torch.ones(streams))

    def forward(self, streams: Tensor) -> Tensor:
        """(B, T, S, C) to the same."""
        into = torch.einsum("btsc,s->btc", streams, self.read)
        kept = torch.einsum("btsc,su->btuc", streams, self.mix)
        return kept + self.branch(self.norm(into))[:, :, None] * self.write[:, None]


class HyperConnections(nn.Module):
    """All branches, and the copies that they begin with."""

    def __init__(self, layers: int = 2, streams: int = 3) -> None:
        super().__init__()
        branches = [kind() for _ in range(layers) for kind in (Attention, MLP)]
        self.connected = nn.ModuleList(HyperConnected(branch, i, streams) for i, branch in enumerate(branches))
        self.streams = streams

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        streams = x[:, :, None].repeat(1, 1, self.streams, 1)
        for each in self.connected:
            streams = each(streams)
        return streams.sum(2)


class Shared(nn.Module):
    """One block, applied again and again (ALBERT)."""

    def __init__(self, times: int = 3) -> None:
        super().__init__()
        self.block, self.times = Sequential(), times

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        for _ in range(self.times):
            x = self.block(x)
        return x


class Decoder(nn.Module):
    """Embeddings, a body, a head."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.emb = nn.Embedding(V, C)
        self.pos = nn.Parameter(0.02 * torch.randn(T, C))
        self.body = body
        self.norm = nn.LayerNorm(C)
        self.head = nn.Linear(C, V)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.head(self.norm(self.body(self.emb(x) + self.pos[: x.shape[1]])))


class FactorizedDecoder(Decoder):
    """A narrow embedding projected up, which the head projects down to again (ALBERT)."""

    def __init__(self, body: nn.Module, narrow: int = 12) -> None:
        super().__init__(body)
        self.emb = nn.Sequential(nn.Embedding(V, narrow), nn.Linear(narrow, C, bias=False))
        self.head = nn.Sequential(nn.Linear(C, narrow), nn.GELU(), nn.LayerNorm(narrow), nn.Linear(narrow, V))


def pairs(generator: torch.Generator) -> Pair:
    """Windows of one long text, as nanoGPT cuts them."""
    data = torch.randint(V, (200,), generator=generator)
    starts = torch.randint(len(data) - T, (4,), generator=generator).tolist()
    return Pair(torch.stack([data[i : i + T] for i in starts]), torch.stack([data[i + 1 : i + 1 + T] for i in starts]))


def perplexity_loss(model: Any, batch: Pair) -> Tensor:
    """Mean over all tokens."""
    return nn.functional.cross_entropy(model(batch.x).reshape(-1, V), batch.y.reshape(-1))


def decoder(name: str, body: Callable[[], nn.Module], outer: Any = Decoder, **parts: Any) -> Subject:
    """A subject with this body."""
    return Subject(
        name=name,
        model=lambda: outer(body()),
        batch=pairs,
        loss=perplexity_loss,
        logits=lambda model, batch: model(batch.x),
        **parts,
    )


def stacked(kind: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Two of a kind."""
    return lambda: nn.Sequential(kind(), kind())


# ---------------------------------------------------------------------------------------------------- nanoGPT's manner
class NanoBlock(nn.Module):
    """RMS norms without weights, squared ReLU, queries and keys normed."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(normed=True), MLP(squared=True)
        nn.init.zeros_(self.attn.proj.weight)
        nn.init.zeros_(self.mlp.proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x + self.attn(nn.functional.rms_norm(x, (C,)))
        return x + self.mlp(nn.functional.rms_norm(x, (C,)))


class NanoGPT(nn.Module):
    """Returns logits and loss; projections into the residual stream start at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList(NanoBlock() for _ in range(3))
        self.lm_head = nn.Linear(C, V, bias=False)
        nn.init.normal_(self.wte.weight, std=0.02)
        nn.init.normal_(self.wpe.weight, std=0.02)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V), and the loss where there are targets."""
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(nn.functional.rms_norm(x, (C,)))
        if targets is None:
            return logits, None
        return logits, nn.functional.cross_entropy(logits.view(-1, V), targets.view(-1), ignore_index=-1)


def nano_step(model: Any, optimizer: torch.optim.Optimizer, micro_batches: list[Pair]) -> dict[str, float]:
    """Accumulated over micro-batches of the same size, clipped at 1."""
    logged = 0.0
    for micro in micro_batches:
        _, loss = model(micro.x, micro.y)
        loss = loss / len(micro_batches)
        logged += loss.item()
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": logged}


def nano_gpt() -> Subject:
    """Matrices are decayed, vectors are not."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))

    return Subject(
        name="nanogpt",
        model=NanoGPT,
        batch=pairs,
        loss=lambda model, batch: model(batch.x, batch.y)[1],
        logits=lambda model, batch: model(batch.x)[0],
        optimizer=optimizer,
        train_step=nano_step,
        hyperparameters={"learning_rate": 1e-3, "weight_decay": 0.1, "grad_clip": 1.0},
    )


SUBJECTS = {
    "nanogpt": nano_gpt,
    "parallel blocks": lambda: decoder("parallel blocks", stacked(Parallel)),
    "rezero": lambda: decoder(
        "rezero", stacked(ReZero), optimizer=lambda model: torch.optim.Adagrad(model.parameters(), lr=0.02)
    ),
    "layer scale": lambda: decoder("layer scale", stacked(LayerScale)),
    "stochastic depth": lambda: decoder("stochastic depth", lambda: nn.Sequential(LayerScale(0.1), LayerScale(0.2))),
    "hyper-connections": lambda: decoder("hyper-connections", HyperConnections),
    "albert sharing": lambda: decoder("albert sharing", Shared, FactorizedDecoder),
}
