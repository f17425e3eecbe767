"""Small training code as other people write it, to be checked: nothing here is like ours but the mathematics.

`CLEAN` holds subjects without a fault. Each is made by a function, so that a test can make it from this file's text
with a fault injected into it.
Legend: B batch, T time, D width, V vocab, H head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from andon.verify.subject import Documents, Subject

VOCAB, ROWS, LENGTH, PAD, END = 37, 4, 24, 0, 1


# ------------------------------------------------------------------ a script: learned positions, tied, dropout
class Normal(nn.Module):
    """LayerNorm with an optional bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class SelfAttention(nn.Module):
    """Fused projection, as in GPT-2."""

    bias: Tensor

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.heads, self.dropout = heads, dropout
        self.resid_dropout = nn.Dropout(dropout)
        self.register_buffer("bias", torch.ones(64, 64).tril()[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        rows, time, width = x.shape
        q, k, v = (
            part.view(rows, time, self.heads, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(self.bias[:, :, :time, :time] == 0, float("-inf"))
        share = F.dropout(F.softmax(scores, dim=-1), p=self.dropout, training=self.training)
        y = (share @ v).transpose(1, 2).contiguous().view(rows, time, width)
        return self.resid_dropout(self.c_proj(y))


class GptBlock(nn.Module):
    """Pre-norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = Normal(width), Normal(width)
        self.attn = SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x  # noqa: RET504 - as it is written everywhere


class Gpt(nn.Module):
    """Returns logits and loss; without targets only the last position's logits."""

    transformer: Any

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 3, block_size: int = 64) -> None:
        super().__init__()
        dropout = 0.1
        words: Any = nn.Embedding(VOCAB, width)
        self.transformer = nn.ModuleDict(
            {
                "wte": words,
                "wpe": nn.Embedding(block_size, width),
                "drop": nn.Dropout(dropout),
                "h": nn.ModuleList([GptBlock(width, heads, dropout) for _ in range(layers)]),
                "ln_f": Normal(width),
            }
        )
        self.lm_head = nn.Linear(width, VOCAB, bias=False)
        words.weight = self.lm_head.weight
        self.apply(self._init_weights)
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits, and the loss where there are targets."""
        pos = torch.arange(0, idx.shape[1], dtype=torch.long)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(pos))
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return logits, loss


def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens, and those that follow."""
    data = torch.randint(2, VOCAB, (ROWS, LENGTH + 1), generator=generator)
    x, y = data[:, :-1], data[:, 1:]
    return x.contiguous(), y.contiguous()


def gpt() -> Subject:
    """The script."""
    return Subject(model=Gpt, batch=pair, loss=lambda model, batch: model(*batch)[1], name="gpt")


# ------------------------------------------------------ a library: dictionaries, masks, grouped queries, rotations
@dataclass
class Settings:
    """What the library's models are made of."""

    width: int = 32
    heads: int = 4
    groups: int = 2
    layers: int = 3
    ffn: int = 48
    theta: float = 1e4
    eps: float = 1e-5
    scale: float = 0.02
    drop: float = 0.0
    tie_word_embeddings: bool = False
    unit: bool = False  # queries and keys are normed
    cap: float = 0.0  # of the logits; 0 is none


@dataclass
class Output:
    """What a model of the library returns."""

    loss: Tensor | None
    logits: Tensor


class Rms(nn.Module):
    """Statistics in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        high = x.float() if x.dtype != torch.float64 else x
        high = high * torch.rsqrt(high.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.gain * high.to(x.dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighboring pairs; x is (B, heads, T, H)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


class Grouped(nn.Module):
    """Attention with fewer keys than queries."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.heads, self.groups, self.size = s.heads, s.groups, s.width // s.heads
        self.query = nn.Linear(s.width, s.heads * self.size, bias=False)
        self.key = nn.Linear(s.width, s.groups * self.size, bias=False)
        self.value = nn.Linear(s.width, s.groups * self.size, bias=False)
        self.out = nn.Linear(s.heads * self.size, s.width, bias=False)
        self.drop = s.drop
        self.unit = s.unit

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        rows, time, _ = x.shape
        q = self.query(x).view(rows, time, self.heads, self.size).transpose(1, 2)
        k = self.key(x).view(rows, time, self.groups, self.size).transpose(1, 2)
        v = self.value(x).view(rows, time, self.groups, self.size).transpose(1, 2)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        if self.unit:
            q, k = F.rms_norm(q, q.shape[-1:]), F.rms_norm(k, k.shape[-1:])
        k, v = (each.repeat_interleave(self.heads // self.groups, dim=1) for each in (k, v))
        p = self.drop if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p)
        return self.out(y.transpose(1, 2).reshape(rows, time, -1))


class Layer(nn.Module):
    """Pre-norm with a gated feed-forward network."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.before, self.between = Rms(s.width, s.eps), Rms(s.width, s.eps)
        self.attention = Grouped(s)
        self.gate, self.up = nn.Linear(s.width, s.ffn, bias=False), nn.Linear(s.width, s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.width, bias=False)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, seen: Tensor) -> tuple[Tensor]:
        """(B, T, D) to (B, T, D)."""
        hidden = hidden + self.attention(self.before(hidden), cos, sin, seen)
        middle = self.between(hidden)
        return (hidden + self.down(F.silu(self.gate(middle)) * self.up(middle)),)


class Library(nn.Module):
    """A causal language model that shifts its labels itself."""

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.config = s
        self.embed = nn.Embedding(VOCAB, s.width)
        self.layers = nn.ModuleList([Layer(s) for _ in range(s.layers)])
        self.last = Rms(s.width, s.eps)
        self.head = nn.Linear(s.width, VOCAB, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=s.scale)
        if s.tie_word_embeddings:
            self.head.weight = self.embed.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Output:
        """Logits, and the loss where there are labels."""
        time = input_ids.shape[1]
        place = torch.arange(time, device=input_ids.device)[None]
        seen = torch.ones(time, time, dtype=torch.bool, device=input_ids.device).tril()[None, None]
        if attention_mask is not None:
            seen = seen & attention_mask.bool()[:, None, None, :]
            seen = seen | torch.eye(time, dtype=torch.bool)  # a row of nothing would be NaN
        if document_ids is not None:
            seen = seen & (document_ids[:, None, :, None] == document_ids[:, None, None, :])
            starts = (document_ids[:, 1:] != document_ids[:, :-1]) * place[:, 1:]
            place = place - F.pad(starts, (1, 0)).cummax(1).values
        size = self.config.width // self.config.heads
        rates = self.config.theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles = (place.double()[..., None] * rates)[:, None]
        cos, sin = angles.cos().float(), angles.sin().float()
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, cos, sin, seen)[0]
        logits = self.head(self.last(hidden))
        if self.config.cap:
            logits = self.config.cap * torch.tanh(logits / self.config.cap)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return Output(loss, logits)


def padded(documents: Documents, side: str = "right") -> dict[str, Tensor]:
    """One document per row."""
    longest = max(map(len, documents))
    ids = torch.full((len(documents), longest), PAD)
    mask = torch.zeros_like(ids)
    for row, document in enumerate(documents):
        place = slice(0, len(document)) if side == "right" else slice(longest - len(document), longest)
        ids[row, place] = torch.tensor(list(document))
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def dictionary(generator: torch.Generator) -> dict[str, Tensor]:
    """A typical batch: rows of several lengths."""
    lengths = [LENGTH, LENGTH - 5, LENGTH - 1, LENGTH - 9]
    return padded([torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in lengths])


def library(**changes: Any) -> Subject:
    """The library with its own loss."""
    return Subject(
        model=lambda: Library(Settings(**changes)),
        batch=dictionary,
        loss=lambda model, batch: model(**batch).loss,
        collate_padded=padded,
        configure=lambda **settings: Library(Settings(**(changes | settings))),
        config_alternatives={
            "theta": 500.0,
            "eps": 1e-3,
            "groups": 4,
            "drop": 0.3,
            "scale": 0.05,
            "tie_word_embeddings": not changes.get("tie_word_embeddings"),
        },
        pad_id=PAD,
        eos_id=END,
        name="library",
    )


def half() -> Subject:
    """The library in bfloat16."""
    return Subject(
        model=lambda: Library(Settings()).bfloat16(),
        batch=dictionary,
        loss=lambda model, batch: model(**batch).loss,
        name="half",
    )


def half_only() -> Subject:
    """The library where bfloat16 is all that the code takes."""
    return Subject(
        model=lambda: Library(Settings()).bfloat16(),
        batch=dictionary,
        loss=lambda model, batch: model(**batch).loss,
        dtype=torch.bfloat16,
        name="half only",
    )


def mixed() -> Subject:
    """The library under autocast."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(**batch).loss

    return Subject(model=lambda: Library(Settings()), batch=dictionary, loss=loss, name="mixed")


# --------------------------------------------------------------- packed rows, a loss in chunks, a cache by hand
class Packed(NamedTuple):
    """Rows of several documents."""

    tokens: Tensor
    targets: Tensor
    document_ids: Tensor


def packed(documents: Documents) -> Packed:
    """Documents end to end in one row."""
    tokens = torch.tensor([[word for document in documents for word in document]])
    numbers = torch.tensor([[index for index, document in enumerate(documents) for _ in document]])
    targets = torch.cat([tokens[:, 1:], torch.full((1, 1), -100)], 1)
    border = torch.cat([numbers[:, 1:] != numbers[:, :-1], torch.ones(1, 1, dtype=torch.bool)], 1)
    return Packed(tokens, targets.masked_fill(border, -100), numbers)


def rows_of_documents(generator: torch.Generator) -> Packed:
    """A typical packed batch."""

    def row(lengths: list[int]) -> Packed:
        return packed([torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in lengths])

    parts = [row(lengths) for lengths in ([7, 12, 5], [3, 21], [1, 10, 13], [24])]
    return Packed(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def chunked(model: nn.Module, batch: Packed) -> Tensor:
    """The loss in chunks of 16 positions, so that few logits exist at a time."""
    logits = model(batch.tokens, document_ids=batch.document_ids).logits.flatten(0, 1)
    targets = batch.targets.flatten()
    total = torch.zeros(())
    for start in range(0, len(targets), 16):
        piece, labels = logits[start : start + 16], targets[start : start + 16]
        total = total + F.cross_entropy(piece.float(), labels, ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum()


def generated(model: nn.Module, tokens: Tensor, count: int) -> Tensor:
    """Greedy, without a cache."""
    for _ in range(count):
        following = model(tokens).logits[:, -1].argmax(-1)
        tokens = torch.cat([tokens, following[:, None]], 1)
    return tokens


def epoch(number: int) -> list[Packed]:
    """Nine batches in an order of their own for each number."""
    order = torch.randperm(9, generator=torch.Generator().manual_seed(number))
    return [rows_of_documents(torch.Generator().manual_seed(100 + int(index))) for index in order]


def held_out() -> list[Packed]:
    """Two batches."""
    return [rows_of_documents(torch.Generator().manual_seed(900 + index)) for index in range(2)]


def instructed(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Characters as ids, the answer trained to its end."""
    before, after = [ord(c) for c in f"Q: {prompt} A: "], [*(ord(c) for c in answer), END]
    return before + after, [-100] * len(before) + after


def packing() -> Subject:
    """The library's model in somebody's loop, with packed rows."""
    return Subject(
        model=lambda: Library(Settings(groups=4)),
        batch=rows_of_documents,
        loss=chunked,
        logits=lambda model, batch: model(batch.tokens, document_ids=batch.document_ids).logits,
        collate_packed=packed,
        generate=generated,
        cached_logits=lambda model, tokens: torch.cat(
            [model(tokens[:, : i + 1]).logits[:, -1:] for i in range(tokens.shape[1])], 1
        ),
        epoch_batches=epoch,
        validation_batches=held_out,
        encode_instruction=instructed,
        encode=lambda text: [2, *(ord(c) for c in text), END],
        decode=lambda ids: "".join(chr(i) for i in ids if i > 2),
        eos_id=END,
        name="packing",
    )


# ------------------------------------------------------------------------- an encoder: both ways, norms last
class EncoderBlock(nn.Module):
    """Post-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = self.first(x + self.attention(x, x, x, key_padding_mask=hidden, need_weights=False)[0])
        return self.second(x + self.narrow(F.gelu(self.wide(x))))


class Encoder(nn.Module):
    """Fills in hidden words."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCAB, width), nn.Embedding(64, width)
        nn.init.normal_(self.words.weight, std=0.05)
        nn.init.normal_(self.places.weight, std=0.05)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList([EncoderBlock(width, 4) for _ in range(2)])
        self.head = nn.Linear(width, VOCAB)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits."""
        x = self.norm(self.words(input_ids) + self.places(torch.arange(input_ids.shape[1])))
        for block in self.blocks:
            x = block(x, attention_mask == 0)
        return self.head(x)


def cloze(generator: torch.Generator) -> dict[str, Tensor]:
    """One word in four is hidden and is to be guessed."""
    batch = dictionary(generator)
    chosen = (torch.rand(batch["input_ids"].shape, generator=generator) < 0.25) & (batch["attention_mask"] == 1)
    labels = batch["input_ids"].masked_fill(~chosen, -100)
    return {**batch, "input_ids": batch["input_ids"].masked_fill(chosen, 2), "labels": labels}


def encoder() -> Subject:
    """The encoder."""

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"])
        return F.cross_entropy(logits.transpose(1, 2), batch["labels"], ignore_index=-100)

    return Subject(model=Encoder, batch=cloze, loss=loss, causal=False, name="encoder")


def tied() -> Subject:
    """The library, tied."""
    return library(tie_word_embeddings=True)


def capped() -> Subject:
    """The library with queries and keys of size 1, and bounded logits."""
    subject = library(unit=True, cap=20.0)
    return replace(subject, config_alternatives={**subject.config_alternatives, "cap": 2.0}, name="capped")


def dropping() -> Subject:
    """The library with dropout in attention."""
    return library(drop=0.2)


CLEAN: tuple[Callable[[], Subject], ...] = (
    gpt,
    library,
    tied,
    capped,
    dropping,
    half,
    half_only,
    mixed,
    packing,
    encoder,
)
