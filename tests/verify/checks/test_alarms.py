"""What the zoo showed to be false alarms: correct code of those kinds passes or is not run, a fault is found."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify.run.report import Report
from andon.verify.run.runner import check
from andon.verify.subject import Adapters, Subject
from tests.verify.loops import lora
from tests.verify.small import Small, small

pytestmark = pytest.mark.long

WORDS, WIDTH, TIME = 23, 16, 13
PASSED, ABSENT = "passed", "not applicable"


class Block(nn.Module):
    """Attention under a mask, which may have a sink, be masked too late, or leave its residual to whoever calls it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        if kind == "sink":
            self.sink = nn.Parameter(torch.zeros(1))

    def forward(self, x_BTD: Tensor, mask_TT: Tensor, more_BTD: Tensor) -> Tensor:
        """(B, T, D)."""
        q, k, v = self.qkv(x_BTD).chunk(3, -1)
        scores = q @ k.mT / WIDTH**0.5
        if self.kind == "late":
            weights = scores.softmax(-1) * mask_TT
        else:
            scores = scores.masked_fill(~mask_TT, float("-inf"))
            sink = [self.sink.expand(*scores.shape[:-1], 1)] if self.kind == "sink" else []
            weights = torch.cat([scores, *sink], -1).softmax(-1)[..., : scores.shape[-1]]
        added = weights @ v + (more_BTD if self.kind == "more" else 0.0)
        return added if self.kind in ("outside", "lost") else x_BTD + added


class Decoder(nn.Module):
    """Two blocks and a head; a table of more rows than there are words, one of as many, or the head's own."""

    def __init__(self, kind: str = "", rows: int = WORDS, tied: bool = False) -> None:
        super().__init__()
        self.kind, self.config = kind, SimpleNamespace(tie_word_embeddings=False)
        self.embed, self.more = nn.Embedding(rows, WIDTH), nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block(kind) for _ in range(2))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        if kind != "more":
            self.more = None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        mask_TT = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
        more_BTD = x_BTD if self.more is None else self.more(tokens)
        for block in self.blocks:
            added = block(x_BTD, mask_TT, more_BTD if self.more is not None else torch.zeros(1))
            x_BTD = x_BTD + added if self.kind == "outside" else added
        return self.head(x_BTD)


def subject(kind: str = "", **shape: Any) -> Subject:
    """A subject of the decoder."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids = torch.randint(WORDS, (3, TIME + 1), generator=generator)
        return {"tokens": ids[:, :-1], "labels": ids[:, 1:]}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["labels"].flatten())

    return Subject(model=lambda: Decoder(kind, **shape), batch=batch, loss=loss)


def said(report: Report) -> str:
    """What came of the one check that was run: its message, that it passed, or that it does not apply."""
    if report.findings:
        return report.findings[0].message
    return PASSED if report.passed else ABSENT


@pytest.mark.parametrize(
    ("kind", "outcome"), [("", PASSED), ("sink", ABSENT), ("more", ABSENT), ("late", "equal states differs")]
)
def test_attention_that_does_not_average_by_design_is_not_checked(kind: str, outcome: str) -> None:
    """Behavior: sinks and second embeddings of a token are not a fault; a mask behind the softmax is."""
    assert outcome in said(check(subject(kind), only=("positions.average",)))


@pytest.mark.parametrize(("kind", "outcome"), [("", PASSED), ("outside", ABSENT), ("lost", "0 times its input")])
def test_a_list_of_attentions_is_not_a_list_of_blocks(kind: str, outcome: str) -> None:
    """Behavior: parts whose residual is added around them are not checked for it; blocks without one are a fault."""
    assert outcome in said(check(subject(kind), only=("structure.residual",)))


@pytest.mark.parametrize(
    ("rows", "tied", "outcome"), [(WORDS, False, PASSED), (WORDS + 8, False, PASSED), (WORDS, True, "there are 1")]
)
def test_a_larger_embedding_is_not_a_head(rows: int, tied: bool, outcome: str) -> None:
    """Behavior: where the configuration says two tensors a larger embedding passes, and a shared one is a fault."""
    assert outcome in said(check(subject(rows=rows, tied=tied), only=("structure.tying",)))


def test_a_setting_that_is_refused_is_not_idle() -> None:
    """Behavior: a value that the model refuses acts; one that it takes and does not read is the finding."""

    def configure(**changes: float) -> nn.Module:
        if "refused" in changes:
            raise ValueError("refused must be 1")
        return Small()

    settings = {"refused": 2.0, "idle": 2.0}
    given = [{key: settings[key]} for key in settings] + [settings]
    refused, idle, both = (
        said(check(small(configure=configure, config_alternatives=each), only=("configuration.sensitivity",)))
        for each in given
    )
    assert PASSED == refused
    assert "1 of 1 settings change nothing: idle" in idle
    assert "1 of 2 settings change nothing: idle" in both


class RMSprop8bit(torch.optim.SGD):
    """Keeps the rate of its squares, and no momentum, as a pair."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=1e-3)
        self.param_groups[0]["betas"] = (0.99, 0)


def test_one_average_has_no_faster_one() -> None:
    """Behavior: a pair of which one is used is not a finding; Adam's two in the wrong order are."""
    clean, injected = (
        said(check(small(optimizer=made), only=("optimizer.settings",)))
        for made in (
            lambda model: RMSprop8bit(model.parameters()),
            lambda model: torch.optim.AdamW(model.parameters(), betas=(0.999, 0.9)),
        )
    )
    assert PASSED == clean
    assert "is hardly ever the faster one" in injected


@pytest.mark.parametrize("name", ["adapters.scale", "adapters.merged_weights"])
def test_adapters_without_a_scale_are_not_held_to_one(name: str) -> None:
    """Behavior: an adapter that adds no B A is not checked for alpha / rank; one that does is."""
    whole = lora()
    assert whole.adapters is not None
    assert PASSED == said(check(whole, only=(name,)))
    assert ABSENT == said(check(replace(whole, adapters=whole.adapters._replace(scale=None)), only=(name,)))


@pytest.mark.parametrize("copied", [False, True])
def test_a_constant_or_a_copy_beside_what_is_frozen_is_the_adapter_s(copied: bool) -> None:
    """Behavior: an adapter's ones may equal the base's, and so may a copy that learns beside a frozen original."""

    def add(model: Any, *_: float) -> nn.Module:
        model.requires_grad_(False)
        model.gain = nn.Parameter(model.mix.bias.clone() if copied else torch.ones_like(model.mix.bias))
        model.embed.register_forward_hook(lambda _module, _tokens, states: states * model.gain)
        return model

    assert PASSED == said(check(small(adapters=Adapters(add=add)), only=("adapters.frozen",)))
