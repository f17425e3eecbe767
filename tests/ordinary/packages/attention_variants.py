"""Attention of small packages: rotated, local, hashed, low-rank, by random features, gated."""

from typing import Any

import torch
from g_mlp_pytorch import gMLP
from linformer import Linformer
from local_attention import LocalTransformer
from performer_pytorch import PerformerLM
from reformer_pytorch import ReformerLM
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = (
    "rotary-embedding-torch 0.9.1, local-attention 1.11.2, reformer-pytorch 1.4.4, linformer 0.2.3, "
    "performer-pytorch 1.1.4, g-mlp-pytorch 0.1.5"
)

VOCAB = 40


def walk(generator: torch.Generator, length: int = 16, rows: int = 6) -> Tensor:
    """Rows that go on by their own stride."""
    start = torch.randint(0, VOCAB, (rows, 1), generator=generator)
    return (start + torch.randint(1, 4, (rows, 1), generator=generator) * torch.arange(length)) % VOCAB


def pairs(generator: torch.Generator) -> dict[str, Tensor]:
    """Tokens and the same one later."""
    rows = walk(generator, 17)
    return {"inputs": rows[:, :-1], "targets": rows[:, 1:]}


def cross_entropy_of_pairs(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean over all places."""
    return F.cross_entropy(model(batch["inputs"]).flatten(0, 1), batch["targets"].flatten())


class Rotated(nn.Module):
    """A decoder whose queries and keys are rotated in half of their dimensions."""

    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(VOCAB, width)
        self.rotary = RotaryEmbedding(dim=width // heads // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(tokens)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x))
        q, k = self.rotary.rotate_queries_or_keys(q), self.rotary.rotate_queries_or_keys(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.to_out(mixed)
        x = x + self.mlp(self.norms[1](x))
        return self.head(self.norms[2](x))

    def qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        """Three parts."""
        return self.to_qkv(self.norms[0](x)).chunk(3, dim=-1)


def rotary() -> Subject:
    """Rotary embedding, its frequencies fixed."""
    return Subject(
        name="rotary-embedding-decoder",
        model=Rotated,
        batch=pairs,
        loss=cross_entropy_of_pairs,
        optimizer=lambda model: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3),
    )


def local() -> Subject:
    """Attention within windows of four and the one before, the loss by the model itself."""
    return Subject(
        name="local-attention-decoder",
        model=lambda: LocalTransformer(
            num_tokens=VOCAB,
            dim=32,
            depth=2,
            max_seq_len=32,
            local_attn_window_size=4,
            num_residual_streams=1,
            causal=True,
            dim_head=16,
            heads=2,
        ),
        batch=lambda generator: walk(generator, 17),
        loss=lambda model, tokens: model(tokens, return_loss=True),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    )


def reformer() -> Subject:
    """Reformer: buckets by random hashes, new ones each pass, and layers whose backward runs them again.

    No place attends to a later one, but later ones take part in the sorting that says which earlier ones it meets.
    """
    return Subject(
        name="reformer-decoder",
        model=lambda: ReformerLM(
            num_tokens=VOCAB,
            dim=32,
            depth=2,
            heads=2,
            max_seq_len=16,
            bucket_size=4,
            n_hashes=4,
            causal=True,
            ff_chunks=1,
            axial_position_emb=False,
        ),
        batch=pairs,
        loss=cross_entropy_of_pairs,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        causal=False,
    )


class Sentence(nn.Module):
    """Linformer over a sentence of fixed length, with learned positions, averaged for two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 32)
        self.places = nn.Embedding(16, 32)
        self.encoder = Linformer(dim=32, seq_len=16, depth=2, heads=4, k=6, one_kv_head=True, share_kv=True)
        self.classify = nn.Linear(32, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the classes."""
        return self.classify(self.encoder(self.embed(tokens) + self.places.weight).mean(1))


def linformer() -> Subject:
    """Are more tokens of a row above the middle than below?"""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(0, VOCAB, (16, 16), generator=generator)
        return tokens, ((tokens >= VOCAB // 2).sum(1) > 8).long()

    return Subject(
        name="linformer-sentence",
        model=Sentence,
        batch=batch,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
        causal=False,
    )


def performer() -> Subject:
    """Performer, masked tokens: attention by positive random features, fixed buffers that are drawn anew at times."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        rows = walk(generator) % (VOCAB - 1)
        hidden = torch.rand(rows.shape, generator=generator) < 0.2
        hidden[:, 0] = True
        return {"corrupted": rows.masked_fill(hidden, VOCAB - 1), "original": rows, "hidden": hidden}

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        scores = model(batch["corrupted"])
        return F.cross_entropy(scores[batch["hidden"]], batch["original"][batch["hidden"]])

    return Subject(
        name="performer-masked",
        model=lambda: PerformerLM(
            num_tokens=VOCAB, max_seq_len=16, dim=32, depth=2, heads=2, dim_head=16, causal=False, nb_features=32
        ),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
        causal=False,
    )


def gmlp() -> Subject:
    """gMLP over a causal row: places are mixed by a triangular matrix that starts close to nothing."""
    return Subject(
        name="gmlp-decoder",
        model=lambda: gMLP(num_tokens=VOCAB, dim=32, depth=2, seq_len=16, causal=True),
        batch=pairs,
        loss=cross_entropy_of_pairs,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3),
    )


SUBJECTS = {
    "rotary-embedding-decoder": rotary,
    "local-attention-decoder": local,
    "reformer-decoder": reformer,
    "linformer-sentence": linformer,
    "performer-masked": performer,
    "gmlp-decoder": gmlp,
}
