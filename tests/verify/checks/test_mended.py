"""Gaps and alarms that code of others showed: correct code passes, and the fault beside it is found."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.clean import reseeded
from tests.subjects import SUBJECTS
from tests.verify.small import loss, small
from verify.runner import check
from verify.subject import Subject

pytestmark = pytest.mark.long


class Wrapped:
    """An optimizer around another, as Accelerate has them: no torch optimizer itself, and without its hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner one's."""
        return self.optimizer.param_groups


def wrapped(under_autocast: bool) -> Subject:
    """A step through a wrapper, whose update is or is not under autocast."""

    def step(model: nn.Module, optimizer: Any, batches: list[Any]) -> dict[str, float]:
        optimizer.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            total = loss(model, batches[0])
        total.backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
            optimizer.optimizer.step()
        return {"loss": float(total)}

    return small(optimizer=lambda model: Wrapped(torch.optim.AdamW(model.parameters(), lr=1e-3)), step=step)


def test_a_wrapped_optimizer_is_seen() -> None:
    """Behaviour: the update of the optimizer inside a wrapper counts, and outside autocast it passes."""
    clean, planted = (check(wrapped(under), only=("autocast.scope",)) for under in (False, True))
    assert ((), ("autocast.scope",)) == (clean.findings, clean.passed)
    assert ["Subject.step: the update ran under autocast to torch.bfloat16"] == [
        finding.message for finding in planted.findings
    ]


def test_an_epoch_whose_labels_stand_elsewhere_is_found() -> None:
    """Behaviour: labels under their own tokens in an epoch alone are a finding; one ahead there, too, they pass."""

    def shifted(steps: int) -> Subject:
        ids = torch.arange(3)[:, None] + torch.arange(7) * 2 % 11 % 8
        parts = {"tokens": ids[:, :-1], "labels": ids[:, steps : steps + 6]}
        return small(batch=lambda _: {"tokens": ids[:, :-1], "labels": ids[:, 1:]}, epoch=lambda _: [parts])

    planted, clean = (check(shifted(steps), only=("data.targets",)) for steps in (0, 1))
    assert ((), ("data.targets",)) == (clean.findings, clean.passed)
    assert [
        "labels stand in Subject.batch one ahead, in Subject.epoch under their own tokens: one loss cannot take both"
    ] == [finding.message for finding in planted.findings]


@pytest.mark.parametrize("seed", [2, 7])
def test_sharp_attention_in_half_precision_passes(seed: int) -> None:
    """Behaviour: an error that grows with the number of keys, as rounding alone makes it, is no fault of positions."""
    report = check(reseeded(SUBJECTS["half lora"](), seed), only=("positions.precision",))
    assert ((), ("positions.precision",)) == (report.findings, report.passed)
