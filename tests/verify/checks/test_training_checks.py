"""Checks of training: clean code of several habits passes, and each bug injected into it is found by its check."""

import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import nn

from andon.verify.run.runner import check
from andon.verify.subject import Subject
from tests.verify import loops

AREAS = (
    "accumulation", "adapters", "clipping", "evaluation", "memory", "optimizer", "quantization", "resume", "schedule",
    "updates",
)  # fmt: skip


class Bug(NamedTuple):
    """An exchange of text in loops.py that must be found (tests/verify/bugs.toml)."""

    name: str
    subject: str
    before: str  # unique in the file
    after: str
    found_by: str


FILE = Path(loops.__file__).with_name("bugs.toml")
BUGS = [Bug(**values) for values in tomllib.loads(FILE.read_text(encoding="utf-8"))["bugs"]]


def injected(bug: Bug) -> Subject:
    """The subject from the file with this bug in it."""
    source = Path(loops.__file__).read_text(encoding="utf-8")
    assert 1 == source.count(bug.before), f"{bug.name}: {source.count(bug.before)} places"
    module = ModuleType("loops_with_a_bug")
    sys.modules[module.__name__] = module
    exec(compile(source.replace(bug.before, bug.after), f"<{bug.name}>", "exec"), module.__dict__)  # noqa: S102 - our own text
    return getattr(module, bug.subject)()


@pytest.mark.long
@pytest.mark.parametrize("name", loops.SUBJECTS)
def test_clean_code_passes(name: str) -> None:
    """Behavior: no check of training finds anything in clean code, and each area has something to say of it."""
    report = check(loops.SUBJECTS[name](), only=AREAS)
    assert [] == [(finding.check, finding.message) for finding in report.findings]
    assert len(report.passed) > 10


@pytest.mark.tier2
def test_a_warm_up_from_zero_has_to_be_said() -> None:
    """Behavior: the first of several warm-up updates may have no rate where that is said, and no other one ever."""

    def findings(zeros: int, **settings: float) -> list[str]:
        rate = {"lr_at": lambda step: 0.0 if step < zeros else min(1.0, step / 4)}
        report = check(
            replace(loops.script(), **rate, hyperparameters={"learning_rate": 1.0, **settings}), only=["schedule.start"]
        )
        return [finding.check for finding in report.findings]

    assert ["schedule.start"] == findings(1, warmup_steps=4)
    assert [] == findings(1, warmup_steps=4, warmup_from=0.0)
    assert ["schedule.start"] == findings(2, warmup_steps=4, warmup_from=0.0)
    assert ["schedule.start"] == findings(1, warmup_steps=0, warmup_from=0.0)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum by hand": lambda p: loops.Momentum(p, 0.1, 0.9),
    "SGD with decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "Adam with L2": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "AdamW one by one": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=False),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "AdamW capturable": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-3), fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_other_optimizers_pass(name: str, dtype: torch.dtype) -> None:
    """Behavior: what torch ships is not accused, of Adam's kind or not, nor is a plain step around it."""

    def build(model: nn.Module) -> torch.optim.Optimizer:
        return OPTIMIZERS[name](list(model.parameters()))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[loops.Batch]) -> dict[str, float]:
        optimizer.zero_grad()
        losses = [loops.mean_loss(model, batch) / len(batches) for batch in batches]
        for loss in losses:
            loss.backward()
        optimizer.step()
        return {"loss": float(sum(loss.detach() for loss in losses))}

    report = check(replace(loops.own(dtype), optimizer=build, train_step=step), only=AREAS)
    assert [] == [(finding.check, finding.message) for finding in report.findings]


@pytest.mark.tier3
@pytest.mark.filterwarnings("ignore")  # some bugs are warned of by torch
@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_each_bug_is_found(bug: Bug) -> None:
    """Behavior: the check that is about it finds the bug, with numbers, and the clean code passes it."""
    report = check(injected(bug), only=[bug.found_by])
    assert [bug.found_by] == [finding.check for finding in report.findings]
    assert not report.findings[0].mistake, report.findings[0].message
    assert any(character.isdigit() for character in report.findings[0].message)
