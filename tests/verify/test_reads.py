"""What a check reads of a batch is told from its source, and no part is said to open a check that lacks it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from andon.verify.access.logits import logits_of
from andon.verify.access.targets import tokens_of
from andon.verify.checks import CHECKS, Check
from andon.verify.errors import NotApplicable
from andon.verify.run.reads import as_sentence, reads, unmet
from andon.verify.run.runner import check
from andon.verify.subject import Batch, Subject
from tests.ordinary.masked import cnn_classes
from tests.ordinary.vision import cnn
from tests.verify.small import small


def of_tokens(subject: Subject) -> None:
    """Always, and through another."""
    through(subject)


def through(subject: Subject) -> None:
    """A second function."""
    tokens_of(subject, None)


def of_logits(subject: Subject) -> None:
    """Logits are of tokens."""
    logits_of(subject, nn.Identity(), None)


def perhaps(subject: Subject) -> None:
    """In one branch, after an early return, as a default, and tried."""
    try:
        tokens_of(subject, None)
    except NotApplicable:
        assert subject.causal
    if subject.causal or tokens_of(subject, None):
        tokens_of(subject, None)
        return
    by_default(subject)
    logits_of(subject, nn.Identity(), None)


def by_default(subject: Subject, ask: Callable[[Subject, Batch], object] = tokens_of) -> None:
    """What a caller may exchange."""
    ask(subject, None)


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("function", "found", "said"),
    [
        (of_tokens, ("tokens",), "Reads tokens of the batch."),
        (of_logits, ("tokens", "logits"), "Reads tokens of the batch, and logits of them."),
        (perhaps, (), ""),
        (by_default, (), ""),
    ],
)
def test_what_is_always_reached_is_read(function: Callable[[Subject], None], found: tuple[str, ...], said: str) -> None:
    """Behavior: through other functions too; what a branch, a default or an attempt reaches is none."""
    one = Check("a.one", function)
    assert (found, said) == (reads(one), as_sentence(one))


def stepping(subject: Subject) -> Subject:
    """The subject with an optimizer and a step."""

    def step(model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> None:
        optimizer.zero_grad()
        for batch in batches:
            (subject.loss(model, batch) / len(batches)).backward()
        optimizer.step()

    return replace(subject, optimizer=lambda model: AdamW(model.parameters(), lr=1e-3), train_step=step)


@pytest.mark.tier3
@pytest.mark.parametrize("made", [cnn, cnn_classes], ids=["pictures", "classes of texts"])
def test_no_check_gives_a_verdict_without_what_it_reads(made: Callable[[], Subject]) -> None:
    """Against the checks themselves: what passes or is found on a subject reads nothing that the subject lacks."""
    subject = stepping(made())
    lacking, report = unmet(subject), check(subject)
    assert lacking
    judged = {*report.passed, *(each for finding in report.findings for each in (finding.check, *finding.follows))}
    assert [] == [each.name for each in CHECKS if each.name in judged and set(reads(each)) & set(lacking)]


@pytest.mark.tier2
def test_a_part_that_would_not_open_a_check_is_not_said_to() -> None:
    """Behavior: pictures have no tokens, which a collator of documents would not change; a schedule is one for both."""
    pictures, tokens = (check(made(), only=("packing", "schedule", "reference")) for made in (cnn, small))
    assert {"packing.packed", "reference.logits"} <= tokens.not_applicable.keys()
    assert "collate_packed" == tokens.not_applicable["packing.packed"]
    assert "collate_packed" in tokens.headline
    assert "collate_packed" not in pictures.headline
    assert "reference_logits" not in pictures.headline
    assert pictures.not_applicable["packing.packed"].startswith("tokens in the batch")
    assert "lr_at" in pictures.headline
    assert torch.is_grad_enabled()
