"""Correct code that is asked as its own pass asks it: a decoder's memory, norms beside autocast, labels made of ids."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.verify import Subject
from tests.verify.kinds.asked import VOCAB, accusations, named

pytestmark = pytest.mark.tier3

WIDTH, TIME, ROWS = 32, 24, 4
PAD = 0


class Copying(nn.Module):
    """An encoder and a decoder of torch's, whose rows have as many places as those of the source."""

    def __init__(self, *, shifts: bool = False) -> None:
        super().__init__()
        self.shifts = shifts
        self.source, self.target = nn.Embedding(VOCAB, WIDTH), nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Embedding(TIME, WIDTH)
        encoder = nn.TransformerEncoderLayer(WIDTH, 2, 48, 0.0, batch_first=True)
        decoder = nn.TransformerDecoderLayer(WIDTH, 2, 48, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, 3)
        self.out = nn.Linear(WIDTH, VOCAB)

    def forward(self, src: Tensor, tgt_in: Tensor) -> Tensor:
        """(B, S) and (B, T) to (B, T, V)."""
        time = tgt_in.shape[1]
        places = self.places(torch.arange(time))
        memory = self.encoder(self.source(src) + self.places(torch.arange(src.shape[1])))
        future = torch.ones(time, time, dtype=torch.bool).triu(2 if self.shifts else 1)
        return self.out(self.decoder(self.target(tgt_in) + places, memory, tgt_mask=future))


def copying(*, shifts: bool = False) -> Subject:
    """Rows of a source, and of a target that repeats it."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        src = torch.randint(1, VOCAB, (ROWS, TIME), generator=generator)
        return {"src": src, "tgt_in": src.roll(1, 1), "labels": src}

    def loss(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
        logits = model(given["src"], given["tgt_in"])
        return functional.cross_entropy(logits.flatten(0, 1), given["labels"].flatten())

    return Subject(
        model=lambda: Copying(shifts=shifts), batch=batch, loss=loss, roles={"tokens": "tgt_in", "labels": "labels"}
    )


def test_a_decoders_memory_has_no_places_of_its_own_row() -> None:
    """Behavior: a memory as long as the row is not cut like a mask; a mask that is off by one is red."""
    assert [] == accusations(copying(), "positions", "attention")
    assert "attention.causality" in named(copying(shifts=True), "attention")


class Rooted(nn.Module):
    """A norm that computes in the dtype that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """The same rows of rms 1."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Normed(nn.Module):
    """States in float32 under autocast, as embeddings are, though layers return halves; or all of them in half."""

    def __init__(self, *, halves: bool) -> None:
        super().__init__()
        self.halves, self.words = halves, nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(
            nn.Sequential(Rooted(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x = self.words(ids)
        for layer in self.layers:
            x = x + layer(x.bfloat16() if self.halves else x)
        return self.head(x)


@pytest.mark.parametrize("halves", [False, True])
def test_a_norm_is_asked_in_the_dtype_that_it_is_given(*, halves: bool) -> None:
    """Behavior: statistics of float32 states are exact beside layers in half; those of half states are red."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[0])
        return functional.cross_entropy(logits.float().flatten(0, 1), batch[1].flatten())

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        ids = torch.randint(0, VOCAB, (ROWS, TIME + 1), generator=generator)
        return ids[:, :-1], ids[:, 1:]

    subject = Subject(model=lambda: Normed(halves=halves), batch=batch, loss=loss)
    assert halves == bool(accusations(subject, "norms.precision"))


class Masked(nn.Module):
    """One layer of causal attention that takes a mask of real tokens, or leaves it."""

    def __init__(self, *, masks: bool) -> None:
        super().__init__()
        self.masks, self.words, self.places = masks, nn.Embedding(VOCAB, WIDTH), nn.Embedding(TIME, WIDTH)
        self.read, self.out, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) twice to (B, T, V)."""
        time = ids.shape[1]
        seen = torch.ones(time, time, dtype=torch.bool).tril()[None]
        if self.masks:
            seen = (seen & attention_mask[:, None, :].bool()) | torch.eye(time, dtype=torch.bool)
        x = self.words(ids) + self.places(torch.arange(time))
        q, k, v = self.read(x).chunk(3, -1)
        return self.head(x + self.out(functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)))


@pytest.mark.parametrize("masks", [True, False])
def test_a_first_token_may_be_predicted_by_padding(*, masks: bool) -> None:
    """Behavior: labels that a loss makes of its ids and mask; no verdict, but where the mask is left out."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(1, VOCAB, (ROWS, TIME), generator=generator)
        mask = (torch.arange(TIME)[None] < torch.tensor([TIME, 20, 18, 15])[:, None]).long()
        return {"input_ids": ids * mask, "attention_mask": mask}

    def loss(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
        ids, mask = given["input_ids"], given["attention_mask"]
        labels = ids.masked_fill(mask == 0, -100)
        return functional.cross_entropy(model(ids, mask)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    subject = Subject(model=lambda: Masked(masks=masks), batch=batch, loss=loss)
    assert masks == (named(subject, "attention.padding") == set())


class Hiding(nn.Module):
    """Torch's encoder, causal, that hides the padding it finds in its ids; positions are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(TIME, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 48, 0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        time = ids.shape[1]
        future = torch.ones(time, time, dtype=torch.bool).triu(1)
        x = self.words(ids) + self.places(torch.arange(time))
        return self.head(self.body(x, mask=future, src_key_padding_mask=ids == PAD))


def test_padding_at_a_rows_end_is_no_wrong_position() -> None:
    """Behavior: a state that a mask hides where another stands is not held to it."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(1, VOCAB, (ROWS, TIME), generator=generator)
        return {"input_ids": ids * (torch.arange(TIME)[None] < torch.tensor([17, 20, TIME, 15])[:, None])}

    def loss(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
        ids = given["input_ids"]
        labels = ids.masked_fill(ids == PAD, -100)
        return functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    assert [] == accusations(Subject(model=Hiding, batch=batch, loss=loss), "positions", "attention")
