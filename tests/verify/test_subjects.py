"""Ready-made subjects: any module in three arguments, and libraries that are not imported before they are used."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from andon import verify
from andon.verify import subjects
from andon.verify.access.calls import loss_of, new_batch, new_model
from andon.verify.access.logits import logits_of
from andon.verify.errors import SubjectError
from andon.verify.run.runner import check
from tests.clean import Manual, pair, pair_loss, reseeded

ROOT = Path(__file__).parents[2]


@pytest.mark.tier1
def test_three_arguments_make_a_subject() -> None:
    """Behavior: a module, its loss and a batch are enough; each check gets a copy, and the module stays as it is."""
    net = nn.Linear(3, 1)
    before = net.weight.detach().clone()
    subject = subjects.module(
        net, lambda model, batch: mse_loss(model(batch[0]), batch[1]), (torch.ones(2, 3), torch.ones(2, 1))
    )
    model = new_model(subject)
    loss_of(subject, model, new_batch(subject)).backward()
    assert "Linear" == subject.name
    assert model is not net
    assert net.weight.grad is None
    assert torch.equal(before, net.weight)


@pytest.mark.tier1
def test_a_function_makes_fresh_weights() -> None:
    """Behavior: a factory of modules shows initial weights, and another seed gives others."""
    subject = subjects.module(lambda: Manual(layers=1), pair_loss, pair, name="manual")
    first, again, other = (next(new_model(each).parameters()) for each in (subject, subject, reseeded(subject, 1)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(new_batch(subject)[0], new_batch(reseeded(subject, 1))[0])


@pytest.mark.tier1
def test_what_is_not_a_function_is_refused() -> None:
    """Behavior: a loss that cannot be called is a mistake of the subject's, and the message says so."""
    with pytest.raises(SubjectError, match=r"Subject\.loss is int, not a function"):
        subjects.module(nn.Linear(1, 1), 3, torch.ones(1))  # ty: ignore[invalid-argument-type]


@pytest.mark.tier2
def test_what_cannot_be_copied_is_refused() -> None:
    """Behavior: a module that holds a tensor with a graph needs a function that makes a new one."""
    net: Any = nn.Linear(3, 1)
    net.kept = 2 * net.weight
    with pytest.raises(SubjectError, match=r"Linear cannot be copied .*give a function that makes a new one"):
        new_model(subjects.module(net, pair_loss, pair))


@pytest.mark.tier2
def test_under_autocast_loss_and_logits_are_half_precision_s() -> None:
    """Behavior: the subject's forward passes run under autocast, and the subject itself as before."""
    plain = subjects.module(Manual, pair_loss, pair)
    within = subjects.under_autocast(plain)
    model, batch = new_model(plain), new_batch(plain)
    assert [torch.float32, torch.bfloat16] == [logits_of(each, model, batch).dtype for each in (plain, within)]
    assert not torch.equal(*(loss_of(each, model, batch).detach() for each in (plain, within)))


@pytest.mark.tier3
def test_libraries_wait_until_they_are_asked_for() -> None:
    """Behavior: importing the subjects imports no library; an unknown one is named with those there are."""
    code = (
        "import sys, andon.verify.subjects as s\n"
        "print(sorted({'transformers', 'peft', 'litgpt'} & set(sys.modules)))\n"
        "try:\n    s.keras\nexcept AttributeError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported, said = done.stdout.splitlines()
    assert "[]" == imported
    assert said.startswith("no subjects for 'keras'; there are ")
    assert {"huggingface", "litgpt", "module", "peft", "trainer"} <= set(said.partition("are ")[2].split(", "))


@pytest.mark.tier2
def test_a_library_s_subjects_are_imported_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a name that is known is the module of that name."""
    stub = ModuleType("andon.verify.subjects.lightning")
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    monkeypatch.delitem(vars(subjects), "lightning", raising=False)
    assert stub is subjects.__getattr__("lightning")


@pytest.mark.tier2
def test_all_of_verify_is_reached_by_its_names() -> None:
    """Behavior: `andon.verify.subjects` is there before anybody imports it."""
    assert subjects is verify.__getattr__("subjects")


@pytest.mark.tier3
def test_a_decoder_of_plain_operations_is_clean() -> None:
    """Behavior: correct code that is written another way than ours has no finding."""
    report = check(subjects.module(Manual, pair_loss, pair))
    assert () == report.findings
    assert report.checked > 20


class Peeking(Manual):
    """The same with a mask that is off by one."""

    def _attend(self, block: nn.ModuleDict, x: Tensor) -> Tensor:
        return super()._attend(block, torch.cat((x[:, 1:], x[:, -1:]), 1))


@pytest.mark.tier3
def test_a_decoder_that_peeks_is_found() -> None:
    """Behavior: three arguments are enough for the first check to see that a token reads the next one."""
    report = check(subjects.module(Peeking, pair_loss, pair), only=["attention.causality"])
    assert ["attention.causality"] == [finding.check for finding in report.findings]
    assert "moves logits before it" in report.findings[0].message
