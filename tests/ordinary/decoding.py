"""Language models with all that belongs to them: collators, packing, caches, generation, texts, epochs."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.verify import Subject

SOURCE = "written for this corpus"


# ----------------------------------------------------------------------------------- rotary decoder, packed rows, cache
@dataclass(frozen=True)
class Config:
    """Sizes."""

    vocab_size: int = 64
    hidden_size: int = 32
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6


Cache = list[tuple[Tensor, Tensor]]


class RotaryAttention(nn.Module):
    """Grouped queries, a mask from outside, keys and values kept on demand."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c, self.size = c, c.hidden_size // c.num_heads
        self.q_proj = nn.Linear(c.hidden_size, c.num_heads * self.size, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(c.num_heads * self.size, c.hidden_size, bias=False)

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """Halves against each other; x (B, H, T, D), positions (B, T)."""
        exponent = torch.arange(0, self.size, 2, device=x.device) / self.size
        angle = positions[:, None, :, None] / self.c.rope_theta**exponent
        one, two = x.chunk(2, -1)
        return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], -1)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor, past: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, D), and keys and values of all so far."""
        q, k, v = (f(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.turn(q, positions), self.turn(k, positions)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(2)), (k, v)


class Rotary(nn.Module):
    """Pre-norm, gated, untied."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.attentions = nn.ModuleList(RotaryAttention(c) for _ in range(c.num_layers))
        self.gates = nn.ModuleList(nn.Linear(c.hidden_size, 4 * c.hidden_size, bias=False) for _ in range(c.num_layers))
        self.downs = nn.ModuleList(nn.Linear(2 * c.hidden_size, c.hidden_size, bias=False) for _ in range(c.num_layers))
        self.norms = nn.ModuleList(nn.RMSNorm(c.hidden_size, c.norm_eps) for _ in range(2 * c.num_layers + 1))
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, document_ids: Tensor | None = None,
        past: Cache | None = None,
    ) -> tuple[Tensor, Cache]:  # fmt: skip
        """Logits (B, T, V) and the cache. Tokens of other documents are not seen."""
        seen = past[0][0].shape[2] if past else 0
        place = torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device)
        positions = place.expand_as(input_ids) if position_ids is None else position_ids
        mask = (place[:, None] >= torch.arange(seen + len(place), device=place.device)).expand(len(input_ids), -1, -1)
        if document_ids is not None:
            mask = mask & (document_ids[:, :, None] == document_ids[:, None])
        x, cache = self.embed_tokens(input_ids), []
        for i, (attention, gate, down) in enumerate(zip(self.attentions, self.gates, self.downs, strict=True)):
            y, kept = attention(self.norms[2 * i](x), positions, mask, past[i] if past else None)
            cache.append(kept)
            x = x + y
            left, right = gate(self.norms[2 * i + 1](x)).chunk(2, -1)
            x = x + down(functional.silu(left) * right)
        return self.lm_head(self.norms[-1](x)), cache


def rows(documents: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """One per row, padded on the right with 0; labels are one ahead."""
    longest = max(map(len, documents))
    ids, labels = torch.zeros(len(documents), longest, dtype=torch.long), torch.full((len(documents), longest), -100)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = torch.as_tensor(document)
        labels[row, : len(document) - 1] = torch.as_tensor(document[1:])
    return {"input_ids": ids, "labels": labels}


def packed(documents: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """All in one row; positions begin anew, and a document's last token predicts nothing."""
    return {
        "input_ids": torch.tensor([[token for document in documents for token in document]]),
        "labels": torch.tensor([[token for document in documents for token in [*document[1:], -100]]]),
        "position_ids": torch.tensor([[place for document in documents for place in range(len(document))]]),
        "document_ids": torch.tensor([[number for number, document in enumerate(documents) for _ in document]]),
    }


def rotary_logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """(B, T, V)."""
    return model(batch["input_ids"], batch.get("position_ids"), batch.get("document_ids"))[0]


def mean_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Over labels that are not -100."""
    return functional.cross_entropy(rotary_logits(model, batch).transpose(1, 2), batch["labels"], ignore_index=-100)


@torch.no_grad()
def greedy(model: nn.Module, ids: Tensor, count: int) -> Tensor:
    """The prompt at once, then a token at a time."""
    logits, cache = model(ids)
    for step in range(count):
        following = logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], 1)
        if step + 1 < count:
            logits, cache = model(following, past=cache)
    return ids


def token_by_token(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits through the cache."""
    cache, steps = None, []
    for token in ids.split(1, dim=1):
        logits, cache = model(token, past=cache)
        steps.append(logits)
    return torch.cat(steps, 1)


def rotary() -> Subject:
    """Packed rows are what it trains on."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        lengths = torch.randint(4, 12, (4,), generator=generator).tolist()
        return packed([torch.randint(1, 64, (length,), generator=generator).tolist() for length in lengths])

    return Subject(
        name="packed rotary", model=lambda: Rotary(Config()), batch=batch, loss=mean_loss, logits=rotary_logits,
        collate_padded=rows, collate_packed=packed, generate=greedy, cached_logits=token_by_token, pad_id=0,
        configure=lambda **changes: Rotary(replace(Config(), **changes)),
        config_alternatives={"rope_theta": 500.0, "num_kv_heads": 4, "num_layers": 1, "norm_eps": 1e-3},
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- instructions, in bytes
END, PADDING, ASKED, MARKS = 0, 1, 2, 3
EXAMPLES = [
    ("say hello", "hello."), ("count", "one two three."), ("who are you?", "a model."), ("color?", "blue."),
    ("and a fruit?", "a pear."), ("stop!", "yes."), ("a sea?", "the red one."), ("name a bird", "an owl."),
]  # fmt: skip


def encode(text: str) -> list[int]:
    """A byte is a token, after the marks; the end is marked."""
    return [*(byte + MARKS for byte in text.encode()), END]


def decode(ids: Sequence[int]) -> str:
    """Without marks."""
    return bytes(int(i) - MARKS for i in ids if int(i) >= MARKS).decode(errors="replace")


def encode_instruction(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Only the answer and its end are to be learned."""
    asked, answered = [*encode(prompt)[:-1], ASKED], encode(answer)
    return asked + answered, [-100] * len(asked) + answered


def padded(examples: Iterable[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Tensor]:
    """Ids, labels at the same places, and which are real."""
    fill = lambda rows, value: nn.utils.rnn.pad_sequence([*map(torch.tensor, rows)], True, value)  # noqa: E731
    ids, labels = zip(*examples, strict=True)
    return {
        "input_ids": fill(ids, PADDING), "labels": fill(labels, -100),
        "attention_mask": fill([[1] * len(row) for row in ids], 0),
    }  # fmt: skip


class Instructed(nn.Module):
    """Torch's layers; keys that pad are masked."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256 + MARKS, width), nn.Embedding(64, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, 256 + MARKS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, V)."""
        ahead = torch.ones(input_ids.shape[1], input_ids.shape[1], dtype=torch.bool, device=input_ids.device).triu(1)
        padding = None if attention_mask is None else attention_mask == 0
        x = self.bytes(input_ids) + self.places.weight[: input_ids.shape[1]]
        return self.out(self.layers(x, mask=ahead, src_key_padding_mask=padding))


def shifted_loss(model: nn.Module, batch: dict[str, Tensor], reduction: str = "mean") -> Tensor:
    """The logits at a place are for the label at the next."""
    logits = model(batch["input_ids"], batch["attention_mask"])[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction=reduction)


def epoch_batches(epoch: int, size: int = 2) -> Iterator[dict[str, Tensor]]:
    """All examples but two, in another order each time."""
    order = torch.randperm(6, generator=torch.Generator().manual_seed(epoch)).tolist()
    for start in range(0, 6, size):
        yield padded(encode_instruction(*EXAMPLES[i]) for i in order[start : start + size])


def validation_batches() -> Iterator[dict[str, Tensor]]:
    """The other two."""
    yield padded(encode_instruction(*example) for example in EXAMPLES[6:])


def some_examples(generator: torch.Generator) -> dict[str, Tensor]:
    """Three of them."""
    return padded(encode_instruction(*EXAMPLES[i]) for i in torch.randperm(6, generator=generator)[:3].tolist())


def counted(batch: dict[str, Tensor]) -> int:
    """Labels that count."""
    return int((batch["labels"][:, 1:] != -100).sum())


def instruct_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """The mean over the answers of all micro-batches."""
    total = sum(map(counted, batches))
    optimizer.zero_grad()
    losses = [shifted_loss(model, batch, "sum") / total for batch in batches]
    for loss in losses:
        loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {"loss": sum(loss.item() for loss in losses), "grad_norm": float(norm)}


def validate_answers(model: nn.Module, batches: list[Any]) -> float:
    """Per byte of the answers."""
    was, _ = model.training, model.eval()
    with torch.no_grad():
        total = math.fsum(shifted_loss(model, batch, "sum").item() for batch in batches)
    model.train(was)
    return total / sum(map(counted, batches))


def instructions() -> Subject:
    """Fine-tuning on questions and answers."""
    return Subject(
        name="instructions", model=Instructed, batch=some_examples, loss=shifted_loss, train_step=instruct_step,
        logits=lambda model, batch: model(batch["input_ids"], batch["attention_mask"]), validate=validate_answers,
        encode=encode, decode=decode, encode_instruction=encode_instruction, eos_id=END, pad_id=PADDING,
        epoch_batches=epoch_batches, validation_batches=validation_batches,
        collate_padded=lambda documents: padded((document, document) for document in documents),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60, eta_min=1e-4),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- a GRU that goes on writing
class Writer(nn.Module):
    """Its state is its cache."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(40, 24), nn.GRU(24, 32, batch_first=True), nn.Linear(32, 40)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) and the last state."""
        states, last = self.gru(self.embed(tokens), state)
        return self.head(states), last


def write(model: nn.Module, tokens: Tensor, count: int) -> Tensor:
    """Greedily."""
    state, read = None, tokens
    for _ in range(count):
        logits, state = model(read, state)
        read = logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, read], dim=1)
    return tokens


def stepwise(model: nn.Module, tokens: Tensor) -> Tensor:
    """Logits, a token at a time."""
    state, steps = None, []
    for token in tokens.unbind(1):
        logits, state = model(token[:, None], state)
        steps.append(logits)
    return torch.cat(steps, 1)


def writer() -> Subject:
    """Tensors of tokens are its batches."""
    return Subject(
        name="writing gru", model=Writer, batch=lambda generator: torch.randint(40, (5, 17), generator=generator),
        loss=lambda model, tokens: functional.cross_entropy(
            model(tokens[:, :-1])[0].reshape(-1, 40), tokens[:, 1:].reshape(-1)
        ),
        logits=lambda model, tokens: model(tokens)[0], generate=write, cached_logits=stepwise, recurrent=True,
    )  # fmt: skip


SUBJECTS = {"packed rotary": rotary, "instructions": instructions, "writing gru": writer}
