"""What is true of models as a pass uses them: each statement beside faults in different code, and code it leaves."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from andon.verify.run.report import RED, YELLOW
from andon.verify.run.runner import check
from andon.verify.subject import Subject
from tests.verify.small import VOCAB, WIDTH, Small, batch, loss, said, small

pytestmark = pytest.mark.long
PASSED = "passed"
LONG = 12


class Case(NamedTuple):
    """A check, a subject, what comes of it, and in which light."""

    check: str
    made: Callable[[], Subject]
    said: str
    light: str = ""  # of the finding, where there is one


def built(change: Callable[[Any], object], **parts: Any) -> Subject:
    """The small subject, whose new models are changed."""

    def model() -> nn.Module:
        made = Small()
        change(made)
        return made

    return small(model=model, **parts)


def long_batch(generator: torch.Generator) -> dict[str, Tensor]:
    """Rows of a dozen tokens."""
    ids_BT = torch.randint(VOCAB, (3, LONG + 1), generator=generator)
    return {"tokens": ids_BT[:, :-1], "labels": ids_BT[:, 1:]}


# ------------------------------------------------------------------------------------------ embedding and head
class Bare(nn.Module):
    """A head that is a plain parameter, beside settings of one kind or another."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB, WIDTH)
        self.out = nn.Parameter(torch.randn(VOCAB, WIDTH) / 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return torch.tanh(self.words(tokens)) @ self.out.T


def copied(model: Any) -> None:
    """A head that is a copy of the embedding."""
    model.head.weight = nn.Parameter(model.embed.weight.detach().clone())


def bare_copied() -> nn.Module:
    """The same in code that has no head module."""
    made = Bare()
    made.out.data.copy_(made.words.weight.data)
    return made


# ------------------------------------------------------------------------------------------ parts of a block
class Block(nn.Module):
    """Attention of one head and an MLP; each part may be taken for another one."""

    def __init__(self, norm: str = "second", key: str = "key") -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.of_mlp, self.of_keys = norm, key

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D)."""
        n_BTD = self.first(x_BTD)
        scores = self.query(n_BTD) @ self.get_submodule(self.of_keys)(n_BTD).mT
        hidden = torch.ones(x_BTD.shape[1], x_BTD.shape[1], dtype=torch.bool).triu(1)
        x_BTD = x_BTD + scores.masked_fill(hidden, float("-inf")).softmax(-1) @ self.value(n_BTD)
        return x_BTD + self.mlp(self.get_submodule(self.of_mlp)(x_BTD))


class Blocks(nn.Module):
    """Two of them."""

    def __init__(self, **parts: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block(**parts) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.head(x_BTD)


# ------------------------------------------------------------------------------------------ built under a dtype
class Placed(Small):
    """With a table of places that is in no state: turned angles, or slopes, of a dtype that is said or not."""

    table: Tensor

    def __init__(self, kind: str, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        steps_T = torch.arange(LONG, dtype=dtype or torch.get_default_dtype())
        rates_D = torch.arange(1, WIDTH + 1, dtype=dtype or torch.get_default_dtype())
        self.slopes = kind == "slopes"
        table_TD = steps_T[:, None] / (7.3 * rates_D) if self.slopes else (steps_T[:, None] * 0.37 / rates_D).sin()
        self.register_buffer("table", table_TD, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        table_TD = self.table[: tokens.shape[1]]
        x_BTD = self.embed(tokens)
        x_BTD = x_BTD - table_TD if self.slopes else x_BTD + table_TD
        return self.head(torch.tanh(self.mix(x_BTD)))


# ------------------------------------------------------------------------------------------ state beside the state
class Warming(Small):
    """Its attention opens with the number of passes, which it keeps where no state dict looks, or where one does."""

    seen: Tensor

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.kept, self.passes = kept, 0
        if kept:
            self.register_buffer("seen", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        if self.training:
            self.passes += 1
            if self.kept:
                self.seen += 1
        count = self.seen if self.kept else self.passes
        return super().forward(tokens) * (1 + count / 10)


class Averaging(Small):
    """Subtracts a running mean that is a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x_BTD.detach().mean((0, 1))
        return self.head(torch.tanh(self.mix(x_BTD - self.mean)))


# ------------------------------------------------------------------------------------------ norms
class Rms(nn.Module):
    """Divides by the rms; what a gain of g multiplies by is its owner's."""

    def __init__(self, begins: float, times: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gain, self.times = nn.Parameter(torch.full((64,), begins)), times

    def forward(self, x: Tensor) -> Tensor:
        """Rows of 64."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.times(self.gain)


def normed(begins: float, times: Callable[[Tensor], Tensor]) -> Subject:
    """A model with such a norm."""

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(VOCAB, 64), Rms(begins, times), nn.Linear(64, VOCAB))

    return small(model=model)


# ------------------------------------------------------------------------------------------ autocast
def mixed(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The loss under autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BTV = model(batch["tokens"])
    return cross_entropy(logits_BTV.flatten(0, 1).float(), batch["labels"].flatten())


class Scaled(Small):
    """Its states are scaled by a table of some dtype; its head may be called with autocast turned off."""

    scale: Tensor

    def __init__(self, dtype: torch.dtype, off: bool = False) -> None:
        super().__init__()
        self.off = off
        self.register_buffer("scale", torch.linspace(0.5, 1, WIDTH, dtype=dtype), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = torch.tanh(self.mix(self.embed(tokens))) * self.scale
        with torch.autocast("cpu", enabled=not self.off and torch.is_autocast_enabled("cpu")):
            return x_BTD.to(self.scale.dtype) @ self.head.weight.to(self.scale.dtype).T


def by_vectors(model: Any) -> None:
    """A head whose words are taken one by one, as products with a vector."""

    def forward(x_BTD: Tensor) -> Tensor:
        rows_RD = x_BTD.float().flatten(0, 1)
        return torch.stack([torch.mv(rows_RD, word_D) for word_D in model.head.weight], -1).unflatten(
            0, x_BTD.shape[:2]
        )

    model.head.forward = forward


# ------------------------------------------------------------------------------------------ parts that are not used
class Relu(nn.Module):
    """A wide layer of units that may die, and a table of more places than are used."""

    def __init__(self, held: bool = False, extra: bool = False) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(64, WIDTH)
        self.wide, self.head = nn.Linear(WIDTH, 64), nn.Linear(64, VOCAB)
        self.extra = nn.Linear(WIDTH, WIDTH) if extra else None
        self.held = held
        nn.init.constant_(self.wide.bias, -1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(relu(self.wide(x_BTD.detach() if self.held else x_BTD)))


def seeded_relu() -> nn.Module:
    """One, as a script has it: not drawn anew for each check."""
    torch.manual_seed(3)
    return Relu()


def unmasked(*padded: int) -> Subject:
    """A model that no mask reaches, and a batch that pads a row on the left where its seed is one of these."""

    def made(generator: torch.Generator) -> dict[str, Tensor]:
        seed, given = generator.initial_seed(), batch(generator)
        mask_BT = torch.ones_like(given["tokens"])
        mask_BT[1, :2] = 1 - int(seed in padded)
        return {**given, "labels": given["labels"].masked_fill(mask_BT == 0, -100), "attention_mask": mask_BT}

    return small(batch=made)


CASES = {
    "padding that is seen": Case("attention.padding", lambda: unmasked(0), "with other left padding", RED),
    "padding in one of some batches": Case("attention.padding", lambda: unmasked(2), "with other left padding", RED),
    "padding that nobody makes": Case("attention.padding", unmasked, "right where no row is ever padded", YELLOW),
    "two tensors": Case("structure.tying", lambda: small(model=lambda: Bare(cfg={"tie_embeddings": False})), PASSED),
    "a copied head": Case("structure.tying", lambda: built(copied), "begin with the same 88 numbers", YELLOW),
    "a copied parameter": Case("structure.tying", lambda: small(model=bare_copied), "begin with the same", YELLOW),
    "said in hparams": Case(
        "structure.tying",
        lambda: small(model=lambda: Bare(hparams=SimpleNamespace(tie_word_embeddings=True))),
        "says one tensor",
        RED,
    ),
    "said in a mapping": Case(
        "structure.tying", lambda: small(model=lambda: Bare(args={"weight_tying": True})), "says one tensor", RED
    ),
    "each part once": Case("structure.blocks", lambda: small(model=Blocks, batch=long_batch), PASSED),
    "one norm for both": Case(
        "structure.blocks", lambda: small(model=lambda: Blocks(norm="first"), batch=long_batch), "first runs 2", RED
    ),
    "keys are queries": Case(
        "structure.blocks", lambda: small(model=lambda: Blocks(key="query"), batch=long_batch), "query runs 2", RED
    ),
    "tables of float32": Case(
        "structure.state", lambda: small(model=lambda: Placed("angles", torch.float32), batch=long_batch), PASSED
    ),
    "angles of the default": Case(
        "structure.state", lambda: small(model=lambda: Placed("angles"), batch=long_batch), "dtype is bfloat16", YELLOW
    ),
    "slopes of the default": Case(
        "structure.state", lambda: small(model=lambda: Placed("slopes"), batch=long_batch), "dtype is bfloat16", YELLOW
    ),
    "a count in the state": Case("structure.state", lambda: small(model=lambda: Warming(kept=True)), PASSED),
    "a count beside it": Case(
        "structure.state", lambda: small(model=lambda: Warming(kept=False)), "after a step of training", YELLOW
    ),
    "a mean beside it": Case("structure.state", lambda: small(model=Averaging), "after a step of training", YELLOW),
    "gain of one": Case("norms.unit", lambda: normed(1.0, lambda gain: gain), PASSED),
    "gain around one": Case("norms.unit", lambda: normed(0.0, lambda gain: 1 + gain), PASSED),
    "gain of a tenth": Case("norms.unit", lambda: normed(0.1, lambda gain: gain), PASSED),
    "gain of two": Case("norms.unit", lambda: normed(1.0, lambda gain: 1 + gain), "rows of rms 2 times", YELLOW),
    "gain of e": Case("norms.unit", lambda: normed(1.0, torch.exp), "rows of rms 2.72 times", YELLOW),
    "no autocast": Case("autocast.products", small, "a loss that turns autocast on"),
    "autocast": Case("autocast.products", lambda: small(loss=mixed), PASSED),
    "autocast turned off": Case(
        "autocast.products", lambda: small(model=lambda: Scaled(torch.float32, off=True), loss=mixed), PASSED
    ),
    "a table of float64": Case(
        "autocast.products", lambda: small(model=lambda: Scaled(torch.float64), loss=mixed), "torch.float64", YELLOW
    ),
    "products with vectors": Case(
        "autocast.products", lambda: built(by_vectors, loss=mixed), "torch.float32", YELLOW
    ),
    "units that die": Case("structure.parameters", lambda: small(model=Relu), PASSED),
    "units that die in a model that is one": Case(
        "structure.parameters", lambda: small(model=seeded_relu(), batch=batch(torch.Generator())), PASSED
    ),
    "an embedding held": Case(
        "structure.parameters", lambda: small(model=lambda: Relu(held=True)), "the loss depends on them", RED
    ),
    "a layer beside": Case(
        "structure.parameters", lambda: small(model=lambda: Relu(extra=True)), "extra.weight", YELLOW
    ),
    "another objective": Case(
        "structure.parameters",
        lambda: small(model=lambda: Relu(held=True), loss=lambda *given: loss(*given).square()),
        "unless they are meant",
        YELLOW,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_statement_is_held_to_what_a_pass_shows(name: str) -> None:
    """Behavior: code that is right passes or is left, a fault is found in its light."""
    case = CASES[name]
    report = check(case.made(), only=(case.check,))
    assert case.said in said(report)
    assert [case.light] * bool(case.light) == [finding.light for finding in report.findings]
