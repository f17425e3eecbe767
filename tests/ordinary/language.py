"""Decoders that differ in how they know where a token stands and whom it may attend to."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear, log_softmax, nll_loss, scaled_dot_product_attention, silu

from andon.verify import Subject

SOURCE = "written for this corpus"


# ------------------------------------------------------------------------------------------------------------- GPT-2
class GPT2Block(nn.Module):
    """Pre-norm, biases everywhere, GELU by tanh."""

    def __init__(self, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.c_fc, self.mlp_proj = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)
        self.attn_dropout, self.resid_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        bias = torch.tril(torch.ones(32, 32, dtype=torch.bool))
        self.register_buffer("bias", bias.view(1, 1, 32, 32), persistent=False)

    def attention(self, x: Tensor) -> Tensor:
        """Written out, so that its weights can be dropped."""
        B, T, C = x.size()
        q, k, v = (y.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for y in self.c_attn(x).split(C, dim=2))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        mask: Any = self.bias
        att = att.masked_fill(~mask[:, :, :T, :T], torch.finfo(att.dtype).min).softmax(dim=-1)
        y = (self.attn_dropout(att) @ v).transpose(1, 2).contiguous().view(B, T, C)
        return self.resid_dropout(self.c_proj(y))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        x = x + self.attention(self.ln_1(x))
        return x + self.resid_dropout(self.mlp_proj(gelu(self.c_fc(self.ln_2(x)), approximate="tanh")))


class GPT2(nn.Module):
    """Learned positions, one matrix at both ends, smaller weights into the residual stream."""

    def __init__(self, vocab: int = 65, n_embd: int = 32, n_layer: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, n_embd), nn.Embedding(32, n_embd)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList([GPT2Block(n_embd, 4, dropout) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab, bias=False)
        self.lm_head.weight = self.wte.weight
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                residual = name.endswith("_proj")
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * n_layer) if residual else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        """`logits` (B, T, V); with labels, which are the tokens themselves, also `loss`."""
        x = self.drop(self.wte(input_ids) + self.wpe.weight[: input_ids.size(1)])
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        if labels is None:
            return SimpleNamespace(loss=None, logits=logits)
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return SimpleNamespace(loss=loss, logits=logits)


def collated(documents: Any) -> dict[str, Tensor]:
    """Padded on the right; labels of padding are -100."""
    longest = max(len(document) for document in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = labels[row, : len(document)] = torch.as_tensor(document)
    return {"input_ids": ids, "labels": labels}


def gpt2() -> Subject:
    """Rows of several lengths."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        return collated([torch.randint(1, 65, (length,), generator=generator) for length in (20, 13, 17, 9)])

    return Subject(
        name="gpt-2", model=GPT2, batch=batch, loss=lambda model, batch: model(**batch).loss,
        logits=lambda model, batch: model(batch["input_ids"]).logits, collate_padded=collated, pad_id=0,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- biases in place of positions
def alibi_bias(heads: int, length: int) -> Tensor:
    """A penalty that grows with distance, a slope for each head (Press et al. 2022); minus infinity ahead."""
    slopes = torch.tensor([2 ** (-8 * (h + 1) / heads) for h in range(heads)])
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    return (slopes[:, None, None] * distance).masked_fill(distance > 0, -math.inf)


def t5_bucket(distance: Tensor, buckets: int = 16, furthest: int = 64) -> Tensor:
    """T5's for a decoder: near ones a bucket each, then logarithmic."""
    exact = buckets // 2
    far = exact + (distance.clamp(min=1) / exact).log() / math.log(furthest / exact) * (buckets - exact)
    return torch.where(distance < exact, distance, far.long().clamp(max=buckets - 1))


@dataclass
class BiasConfig:
    """Sizes, and what kind of bias."""

    kind: str
    vocab: int = 57
    dim: int = 32
    heads: int = 4
    layers: int = 2


class BiasedAttention(nn.Module):
    """Attention whose scores get a bias from outside; T5 does not scale them."""

    def __init__(self, config: BiasConfig) -> None:
        super().__init__()
        self.config = config
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(4))
        if config.kind == "t5":
            nn.init.normal_(self.q.weight, std=(config.dim * config.dim // config.heads) ** -0.5)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """The same shape."""
        split = lambda y: y.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)  # noqa: E731 - three times
        scale = 1.0 if self.config.kind == "t5" else None
        y = scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)), bias, scale=scale)
        return self.o(y.transpose(1, 2).flatten(2))


class BiasedLM(nn.Module):
    """All layers share the bias."""

    def __init__(self, config: BiasConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab, config.dim)
        self.attentions = nn.ModuleList(BiasedAttention(config) for _ in range(config.layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(config.dim, 4 * config.dim), nn.ReLU(), nn.Linear(4 * config.dim, config.dim))
            for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.RMSNorm(config.dim) for _ in range(2 * config.layers + 1))
        self.head = nn.Linear(config.dim, config.vocab, bias=False)
        if config.kind == "t5":
            self.relative = nn.Embedding(16, config.heads)

    def bias(self, length: int) -> Tensor:
        """(heads, T, T)."""
        if self.config.kind == "alibi":
            return alibi_bias(self.config.heads, length).to(self.tokens.weight)
        place = torch.arange(length, device=self.tokens.weight.device)
        distance = place[:, None] - place[None, :]
        learned = self.relative(t5_bucket(distance.clamp(min=0))).permute(2, 0, 1)
        return learned.masked_fill(distance < 0, -math.inf)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        x, bias = self.tokens(tokens), self.bias(tokens.shape[1])
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * i](x), bias)
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x))


def inputs_and_targets(generator: torch.Generator) -> dict[str, Tensor]:
    """Targets are one ahead."""
    text = torch.randint(57, (4, 22), generator=generator)
    return {"inputs": text[:, :-1].contiguous(), "targets": text[:, 1:].contiguous()}


def biased(kind: str) -> Subject:
    """With this bias."""
    return Subject(
        name=f"{kind} bias" if kind == "t5" else kind,
        model=lambda: BiasedLM(BiasConfig(kind)),
        batch=inputs_and_targets,
        loss=lambda model, batch: nll_loss(
            log_softmax(model(batch["inputs"]), -1).flatten(0, 1), batch["targets"].flatten()
        ),
        logits=lambda model, batch: model(batch["inputs"]),
    )


# -------------------------------------------------------------------- the first transformer's decoder: sines, post-norm
class PostNormLM(nn.Module):
    """Norms after the sums, as in 2017; no last norm is needed."""

    sines: Tensor

    def __init__(self, vocab: int = 57, width: int = 36, layers: int = 2, heads: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        angle = torch.arange(64)[:, None] * rate
        self.register_buffer("sines", torch.stack([angle.sin(), angle.cos()], -1).flatten(1))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(layers))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(inplace=True), nn.Linear(4 * width, width))
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        length, width = inputs.shape[1], self.embedding.embedding_dim
        x = self.embedding(inputs) * math.sqrt(width) + self.sines[:length]
        ahead = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for i, (attention, feed) in enumerate(zip(self.attentions, self.feeds, strict=True)):
            x = self.norms[2 * i](x + attention(x, x, x, attn_mask=ahead, need_weights=False)[0])
            x = self.norms[2 * i + 1](x + feed(x))
        return linear(x, self.embedding.weight)


def post_norm() -> Subject:
    """Adam as in the paper."""
    return Subject(
        name="post-norm sines",
        model=PostNormLM,
        batch=inputs_and_targets,
        loss=lambda model, batch: cross_entropy(model(batch["inputs"]).transpose(1, 2), batch["targets"]),
        logits=lambda model, batch: model(batch["inputs"]),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9),
    )


# ------------------------------------------------------------ rotations, grouped queries, windows, soft caps, gated MLP
def rotate(x: Tensor, theta: float = 10000.0) -> Tensor:
    """Halves turned against each other by the position, (B, H, T, D)."""
    half = x.shape[-1] // 2
    angle = torch.outer(torch.arange(x.shape[-2]), theta ** (-torch.arange(half) / half)).to(x.device)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class RotaryLM(nn.Module):
    """A llama-like decoder; options make it gemma-like or mistral-like."""

    def __init__(
        self, *, heads: int = 4, kv_heads: int = 2, window: int | None = None, soft_cap: float | None = None
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.window, self.soft_cap, self.head_dim = heads, kv_heads, window, soft_cap, 8
        width, inner, vocab, depth = 32, 44, 57, 2
        self.tok_embeddings = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.RMSNorm(width, eps=1e-5),
                    "wq": nn.Linear(width, heads * self.head_dim, bias=False),
                    "wkv": nn.Linear(width, 2 * kv_heads * self.head_dim, bias=False),
                    "wo": nn.Linear(heads * self.head_dim, width, bias=False),
                    "norm2": nn.RMSNorm(width, eps=1e-5),
                    "w13": nn.Linear(width, 2 * inner, bias=False),
                    "w2": nn.Linear(inner, width, bias=False),
                }
            )
            for _ in range(depth)
        )
        self.norm, self.output = nn.RMSNorm(width, eps=1e-5), nn.Linear(width, vocab, bias=False)

    def attend(self, layer: Any, x: Tensor, local: bool) -> Tensor:
        """Causal; local layers see `window` tokens, themselves included."""
        B, T, _ = x.shape
        q = layer["wq"](x).view(B, T, self.heads, -1).transpose(1, 2)
        k, v = layer["wkv"](x).view(B, T, 2 * self.kv_heads, -1).transpose(1, 2).chunk(2, 1)
        k, v = (y.repeat_interleave(self.heads // self.kv_heads, 1) for y in (rotate(k), v))
        scores = rotate(q) @ k.mT / math.sqrt(self.head_dim)
        if self.soft_cap:
            scores = self.soft_cap * torch.tanh(scores / self.soft_cap)
        allowed = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        if local and self.window:
            allowed &= torch.ones_like(allowed).triu(1 - self.window)
        weights = scores.masked_fill(~allowed, -math.inf).softmax(-1)
        return layer["wo"]((weights @ v).transpose(1, 2).reshape(B, T, -1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        h, layers = self.tok_embeddings(tokens), list[Any](self.layers)
        for i, layer in enumerate(layers):
            h = h + self.attend(layer, layer["norm1"](h), local=i % 2 == 0)
            gate, up = layer["w13"](layer["norm2"](h)).chunk(2, -1)
            h = h + layer["w2"](silu(gate) * up)
        logits = self.output(self.norm(h)).float()
        return 30 * torch.tanh(logits / 30) if self.soft_cap else logits


def rotary(name: str, **options: Any) -> Subject:
    """With these options."""
    return Subject(
        name=name,
        model=lambda: RotaryLM(**options),
        batch=inputs_and_targets,
        loss=lambda model, batch: cross_entropy(model(batch["inputs"]).view(-1, 57), batch["targets"].view(-1)),
        logits=lambda model, batch: model(batch["inputs"]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01),
    )


SUBJECTS = {
    "gpt-2": gpt2,
    "alibi": lambda: biased("alibi"),
    "t5 bias": lambda: biased("t5"),
    "post-norm sines": post_norm,
    "grouped queries": lambda: rotary("grouped queries"),
    "multi-query": lambda: rotary("multi-query", kv_heads=1),
    "sliding window": lambda: rotary("sliding window", window=5),
    "soft caps": lambda: rotary("soft caps", kv_heads=4, soft_cap=50.0, window=8),
}
