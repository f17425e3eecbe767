"""Ways to train and describe it: precision, what stands elsewhere, designs, copies, other models, usual beginnings."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Adapters, Subject
from tests.verify.kinds.asked import VOCAB, Pair, Smooth, accusations, language, named, shifted, words

pytestmark = pytest.mark.long
Documents = Sequence[Sequence[int]]


def reader() -> nn.Module:
    """Words, their running mean, a layer, a head."""
    return words(Smooth(), nn.Linear(20, 20), nn.GELU())


# ----------------------------------------------------------------------------------------------------- precision
def half_loss(model: nn.Module, batch: Pair) -> Tensor:
    """Summed over words that count, under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch[0])
    return F.cross_entropy(logits.float().flatten(0, 1), batch[1].flatten(), reduction="sum", ignore_index=-100)


def half_step(by_words: bool) -> Any:
    """A step whose micro-batches are divided by the window's words, or each by its own."""

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Pair]) -> dict[str, float]:
        optimizer.zero_grad()
        counts = [int((labels != -100).sum()) for _, labels in batches]
        total = 0.0
        for batch, count in zip(batches, counts, strict=True):
            part = half_loss(model, batch) / (sum(counts) if by_words else count * len(batches))
            part.backward()
            total += part.item()
        optimizer.step()
        return {"loss": total}

    return train_step


def in_half(*, by_words: bool = True) -> Subject:
    """Training under bf16 autocast, with rows of different lengths."""

    def batch(generator: torch.Generator) -> Pair:
        ids, labels = shifted(generator, rows=6)
        lengths = torch.randint(2, 10, (6, 1), generator=generator)
        return ids, labels.masked_fill(torch.arange(9) >= lengths, -100)

    def loss(model: nn.Module, batch: Pair) -> Tensor:
        return half_loss(model, batch) / (batch[1] != -100).sum()

    return Subject(
        model=reader, batch=batch, loss=loss, train_step=half_step(by_words),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0),
    )  # fmt: skip


class Low(nn.Module):
    """A linear layer and an adapter that can be merged into it and taken out again."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / 4)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.base(x) if self.merged else self.base(x) + self.scale * (x @ self.lora_A.T @ self.lora_B.T)

    @torch.no_grad()
    def turn(self, sign: float) -> None:
        """Put the adapter into the weight, or take it out."""
        self.base.weight += sign * self.scale * self.lora_B @ self.lora_A
        self.merged = not self.merged


def turned(model: nn.Module, wanted: bool, sign: float) -> nn.Module:
    """All adapters that are not as wanted yet."""
    for part in model.modules():
        if isinstance(part, Low) and part.merged != wanted:
            part.turn(sign)
    return model


def lowered(model: Any, rank: int, alpha: float) -> nn.Module:
    """An adapter on the one linear layer between embedding and head."""
    model.requires_grad_(False)
    model[2] = Low(model[2], rank, alpha)
    return model


def adapted(taken_out: float = -1.0) -> Subject:
    """A model in bfloat16 with an adapter in the same."""
    adapters = Adapters(
        add=lambda model, rank, alpha: lowered(model, rank, alpha).to(torch.bfloat16),
        merge=lambda model: turned(model, True, 1.0),
        unmerge=lambda model: turned(model, False, taken_out),
    )
    return language(lambda: reader().to(torch.bfloat16), half_precision_loss, adapters=adapters)


def half_precision_loss(model: nn.Module, batch: Pair) -> Tensor:
    """In float32, of logits in bfloat16."""
    return F.cross_entropy(model(batch[0]).float().flatten(0, 1), batch[1].flatten())


@pytest.mark.parametrize("subject", [in_half, adapted])
def test_rounding_of_half_precision_is_no_fault(subject: Any) -> None:
    """Behavior: accumulation under autocast by the window's words, and unmerging in bfloat16, are not accused."""
    assert [] == accusations(subject())


def test_faults_in_half_precision_are_found() -> None:
    """Behavior: micro-batches that divide by their own words, and an unmerging that takes too little, are named."""
    assert any(name.startswith("accumulation.") for name in named(in_half(by_words=False), "accumulation", "updates"))
    assert "adapters.unmerge" in named(adapted(taken_out=-0.4), "adapters")


# ------------------------------------------------------------------------------------------- what stands elsewhere
def padded(documents: Documents, ignored: int = -100) -> dict[str, Tensor]:
    """Right of each document, under a mask of truth values; labels are one ahead."""
    width = max(map(len, documents)) - 1
    ids = torch.zeros(len(documents), width, dtype=torch.long)
    labels, real = torch.full_like(ids, ignored), torch.zeros_like(ids, dtype=torch.bool)
    for row, document in enumerate(documents):
        count = len(document) - 1
        ids[row, :count], labels[row, :count] = torch.tensor(document[:-1]), torch.tensor(document[1:])
        real[row, :count] = True
    return {"source": ids, "wanted": labels, "real": real}


class Attentive(nn.Module):
    """One attention, and a table of positions as torch draws it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCAB, 16), nn.Embedding(32, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, VOCAB)

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        """As the class says."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        later = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        hidden = ~real & real.any(1, keepdim=True)
        return self.head(self.norm(x + self.attention(x, x, x, key_padding_mask=hidden, attn_mask=later)[0]))


def elsewhere(ignored: int = -100) -> Subject:
    """Parts under names of the project's own, and an evaluation of the first words of each row."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        lengths = torch.randint(4, 11, (5,), generator=generator).tolist()
        return padded([torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in lengths], ignored)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["source"], batch["real"]).flatten(0, 1), batch["wanted"].flatten())

    roles = {"tokens": "source", "labels": "wanted", "mask": "real"}
    return Subject(
        model=Attentive, batch=batch, loss=loss, roles=roles, pad_id=0,
        collate_padded=lambda documents: padded(documents, ignored),
        logits=lambda model, batch: model(batch["source"], batch["real"]),
    )  # fmt: skip


def test_names_masks_and_tables_of_one_s_own_are_no_fault() -> None:
    """Behavior: roles by name, masks of truth values, padding on the right and torch's positions are not accused."""
    assert [] == accusations(elsewhere())


def test_padding_that_is_trained_is_found() -> None:
    """Behavior: the same collator with padding's id as its label is named."""
    assert named(elsewhere(ignored=0), "packing", "data")


# ---------------------------------------------------------------------------------------------------- by design
class Recurrent(nn.Module):
    """A GRU between an embedding and a head; it knows no mask."""

    def __init__(self, *, both_ways: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB, 14)
        self.states = nn.GRU(14, 14, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(28 if both_ways else 14, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        return self.head(self.states(self.words(ids))[0])


def recurrent(**options: bool) -> Subject:
    """Rows padded on the right, labels shifted by the collator."""
    loss = lambda model, batch: F.cross_entropy(model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())  # noqa: E731

    def collate(documents: Documents) -> dict[str, Tensor]:
        made = padded(documents)
        return {"input_ids": made["source"], "labels": made["wanted"]}

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        return collate([torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in (9, 5, 7, 9)])

    return Subject(
        model=lambda: Recurrent(**options), batch=batch, loss=loss, recurrent=True, collate_padded=collate,
        logits=lambda model, batch: model(batch["input_ids"]),
    )  # fmt: skip


def test_a_design_is_no_fault() -> None:
    """Behavior: a recurrence without masks, whose labels are one ahead already, is not accused."""
    assert [] == accusations(recurrent())


def test_a_fault_within_a_design_is_found() -> None:
    """Behavior: the same recurrence in both directions lets positions see later ones."""
    assert "attention.causality" in named(recurrent(both_ways=True), "attention")


# ------------------------------------------------------------------------------------- another model by our change
class Gated(nn.Module):
    """A block behind a scalar that begins at zero (ReZero), or without its residual."""

    def __init__(self, *, residual: bool = True) -> None:
        super().__init__()
        self.mixed, self.gain = nn.GRU(20, 20, batch_first=True), nn.Parameter(torch.zeros(()))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return x + self.gain * self.mixed(x)[0] if self.residual else self.mixed(x)[0]


class Dilated(nn.Module):
    """A causal convolution with weight norm, as temporal convolutional networks have it."""

    def __init__(self, *, residual: bool = True) -> None:
        super().__init__()
        self.filter = nn.utils.parametrizations.weight_norm(nn.Conv1d(20, 20, 3))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        change = torch.tanh(self.filter(F.pad(x.mT, (2, 0))).mT)
        return x + change if self.residual else change


@pytest.mark.parametrize("block", [Gated, Dilated])
def test_a_block_that_our_change_makes_another_is_no_fault(block: type[nn.Module]) -> None:
    """Behavior: ReZero's scalar and weight norm's gain, which zeroed matrices would make others, are not accused."""
    assert [] == accusations(language(lambda: words(block(), block(), block())))


def test_a_block_without_its_residual_is_found() -> None:
    """Behavior: one of three plain blocks that drops what it was given is named."""

    class Plain(nn.Module):
        def __init__(self, *, residual: bool) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(20), nn.Linear(20, 40), nn.Linear(40, 20)
            self.residual = residual

        def forward(self, x: Tensor) -> Tensor:
            change = self.down(F.silu(self.up(self.norm(x))))
            return x + change if self.residual else change

    blocks = lambda: nn.Sequential(*(Plain(residual=place != 1) for place in range(3)))  # noqa: E731
    assert "structure.residual" in named(language(lambda: words(blocks())), "structure")


# --------------------------------------------------------------------------------------------- copies that follow
class Followed(nn.Module):
    """A student and a teacher that is moved after it."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 4))
        self.teacher = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 4)).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.student(x)


def consistency(model: Any, batch: Pair) -> Tensor:
    """The student tells the targets, and says of noisy inputs what the teacher says of clean ones."""
    noisy = model(1.1 * batch[0])
    return F.mse_loss(model(batch[0]), batch[1]) + F.mse_loss(noisy, model.teacher(batch[0]).detach())


def as_any(model: Any) -> Any:
    """A module whose parts are known here alone."""
    return model


def following(share: float = 0.2) -> Subject:
    """A step after which the teacher goes a share of the way to the student."""

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Pair]) -> dict[str, float]:
        optimizer.zero_grad()
        value = torch.stack([consistency(model, batch) for batch in batches]).mean()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
                old.lerp_(new, share)
        return {"loss": float(value)}

    def batch(generator: torch.Generator) -> Pair:
        return torch.randn(9, 5, generator=generator), torch.randn(9, 4, generator=generator)

    return Subject(
        model=Followed, batch=batch, loss=consistency, causal=False, train_step=train_step,
        optimizer=lambda model: torch.optim.Adam(as_any(model).student.parameters(), lr=3e-3),
    )  # fmt: skip


def test_a_frozen_copy_that_follows_is_no_fault() -> None:
    """Behavior: a teacher without gradients that moves toward the student is not accused."""
    assert [] == accusations(following())


def test_a_frozen_copy_that_flees_is_found() -> None:
    """Behavior: the same teacher moved away from the student is named."""
    assert "updates.movement" in named(following(share=-0.2), "updates")


# --------------------------------------------------------------------------------------------- usual by construction
class Skipgram(nn.Module):
    """Two tables, of which that of contexts begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.centers, self.contexts = nn.Embedding(VOCAB, 8), nn.Embedding(VOCAB, 8)
        nn.init.uniform_(self.centers.weight, -0.5 / 8, 0.5 / 8)
        nn.init.zeros_(self.contexts.weight)

    def forward(self, center: Tensor, context: Tensor) -> Tensor:
        """As the class says."""
        return (self.centers(center).unsqueeze(1) * self.contexts(context)).sum(-1)


def skipgram() -> Subject:
    """Negative sampling: the first context is real, the rest are drawn."""

    def batch(generator: torch.Generator) -> Pair:
        return torch.randint(VOCAB, (24,), generator=generator), torch.randint(VOCAB, (24, 5), generator=generator)

    def loss(model: nn.Module, batch: Pair) -> Tensor:
        scores = model(*batch)
        return -(F.logsigmoid(scores[:, 0]) + F.logsigmoid(-scores[:, 1:]).sum(1)).mean()

    return Subject(model=Skipgram, batch=batch, loss=loss, causal=False)


class Places(nn.Module):
    """Positions as torch draws them, added to what comes in."""

    def __init__(self, std: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 20)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return x + self.table(torch.arange(x.shape[1]))


class Table(nn.Module):
    """A bigram model: logits of the next word by this one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, VOCAB)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """As the class says."""
        return self.table(ids)


USUAL = {
    "a table of zeros": skipgram,
    "positions": lambda: language(lambda: words(Places(), Smooth())),
    "one token": lambda: language(Table),
}


@pytest.mark.parametrize("subject", USUAL.values(), ids=USUAL)
def test_a_usual_beginning_is_no_fault(subject: Any) -> None:
    """Behavior: word vectors that begin at zero, positions as torch draws them and a bigram model are not accused."""
    assert [] == accusations(subject())


def test_a_beginning_far_off_is_found() -> None:
    """Behavior: a head drawn thirty times too wide is named."""

    def wide() -> nn.Module:
        model: Any = words(Smooth())
        nn.init.normal_(model[-1].weight, std=30 * 20**-0.5)
        return model

    assert {name for name in named(language(wide), "initialization") if name.startswith("initialization.")}
