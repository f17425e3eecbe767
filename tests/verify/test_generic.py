"""Faults that fit around any subject: each one shows, and none goes where the factory is missing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from andon.verify import check
from andon.verify.faults.detect import Result, Task, alarms, hunt, unit_test
from andon.verify.faults.generic import BLACKBOX, NAMED, Blackbox
from andon.verify.faults.inject import each
from andon.verify.observation.fingerprint import Sketch, changes, vitals
from andon.verify.subject import Quantiser, Subject
from tests.subjects import SUBJECTS
from tests.verify import loops, strangers
from tests.verify.checks.test_odd_training import adapted, add, merge, plainly, stepping
from tests.verify.small import small

ALWAYS = ("model", "loss")  # what every subject has
PARITY = {"labels-shifted": "reference.loss", "loss-half-detached": "reference.gradients"}
RARE = {"labels-ignored-counted", "dropout-in-eval"}  # show only where something is ignored; are another each time


@pytest.mark.tier3
def test_the_same_subject_shows_nothing() -> None:
    """Behaviour: what is seen of a subject is the same each time, and of another it is not."""
    assert [] == changes(small(), vitals(small()))
    changed = replace(small(), loss=lambda model, batch: 1.01 * small().loss(model, batch))
    assert changes(changed, vitals(small()))


@pytest.mark.tier3
@pytest.mark.parametrize("name", [fault.id for fault in BLACKBOX if fault.factory in ALWAYS and fault.id not in RARE])
def test_a_fault_of_what_every_subject_has_is_live(name: str) -> None:
    """Behaviour: planted into a small subject, something that can be seen of it differs."""
    planted = NAMED[name].plant(small())
    assert planted
    assert changes(planted, vitals(small()))


@pytest.mark.tier3
@pytest.mark.parametrize(("name", "finder"), PARITY.items())
def test_parity_with_a_reference_sees_it(name: str, finder: str) -> None:
    """Behaviour: around our core, which has a reference, the check of parity is silent, then finds the fault."""
    clean = SUBJECTS["llama"]()
    planted = NAMED[name].plant(clean)
    assert planted
    assert [] == [finding.check for finding in check(clean, only=(finder,)).findings]
    assert [finder] == [finding.check for finding in check(planted, only=(finder,)).findings]


MADE = {"loops": loops.script, "packed": strangers.packing}


def owner(fault: Blackbox) -> str:
    """A subject that has the factory of a fault."""
    return next(name for name, make in MADE.items() if getattr(make(), fault.factory) is not None)


@pytest.fixture(scope="module")
def clean() -> dict[str, dict[str, Sketch]]:
    """What is seen of these subjects without a fault."""
    return {name: vitals(make()) for name, make in MADE.items()}


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", [fault for fault in BLACKBOX if fault.factory not in ALWAYS], ids=lambda each: each.id
)
def test_a_fault_of_a_factory_is_live(fault: Blackbox, clean: dict[str, dict[str, Sketch]]) -> None:
    """Behaviour: planted into a subject that has the factory, something that can be seen of it differs."""
    planted = fault.plant(MADE[owner(fault)]())
    assert planted
    assert changes(planted, clean[owner(fault)])


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("made", "seen", "unseen"),
    [
        (lambda: adapted(add), "adapters.added.mix.a", "adapters.loaded"),
        (lambda: adapted(add, merge), "adapters.0 merge.logits", "adapters.1 unmerge.logits"),
        (lambda: small(configuration={"eps": 1.0}), "model.state", "configured.eps.logits"),
        (lambda: small(quantiser=Quantiser(torch.clone)), "quantiser.(7, 13)", "quantiser.levels of a bfloat16 house"),
        (lambda: stepping(plainly, optimizer=Momentum), "step.2.state.0.settings", "step.2.state.0.0.momentum_buffer"),
    ],
    ids=["adapters", "merge", "configuration", "quantiser", "momentum"],
)
def test_what_a_subject_lacks_is_not_seen(made: Callable[[], Subject], seen: str, unseen: str) -> None:
    """Behaviour: vitals have what the subject has, and nothing was raised for want of the rest."""
    found = vitals(made())
    assert seen in found
    assert unseen not in found
    assert [] == [key for key in found if key.endswith(".raised")]


class Momentum(torch.optim.SGD):
    """An optimizer that keeps an empty place for what it does not use."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model.parameters(), lr=1e-2)

    def step(self, closure: Any = None) -> Any:
        """As SGD's."""
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["momentum_buffer"] = None
        return super().step(closure)


@pytest.mark.long
def test_a_black_box_fault_is_hunted() -> None:
    """Behaviour: what differs and who finds it is told; a subject without the factory says what it needs."""
    task = Task("tests.verify.small:small", ("small",), {"small": vitals(small())}, blackbox="loss-scaled")
    result = hunt(None, task)
    assert result.live[0].startswith("small: ")
    assert "loss.definition" in [found.check for found in result.found]
    assert Result((), (), "rate") == hunt(None, task._replace(blackbox="rate-late"))
    assert [] == alarms(None, task._replace(subjects=("small/loss.definition", "small/no.check")))
    assert [] == alarms(None, task._replace(subjects=("small/no.check",)))


@pytest.mark.long
def test_a_unit_test_is_green_red_or_cannot_be_run(tmp_path: Path) -> None:
    """Behaviour: a job runs a test in its process and says whether it is red; no test at all is an error."""
    written = {"green": "def test_it():\n    pass\n", "red": "def test_it():\n    assert False\n", "none": ""}
    for name, text in written.items():
        (tmp_path / f"test_{name}.py").write_text(text, encoding="utf-8")
    jobs = [(None, f"{tmp_path / f'test_{name}.py'}::test_it") for name in written]
    found = sorted(each(jobs, unit_test))
    assert [False, True, None] == [outcome.value for outcome in found]
    assert "pytest ended with <ExitCode.USAGE_ERROR" in found[2].error


@pytest.mark.tier1
def test_a_fault_without_its_factory_is_not_planted() -> None:
    """Behaviour: what a subject lacks cannot be wrong; what it has can."""
    assert all(fault.plant(small()) for fault in BLACKBOX if fault.factory in ALWAYS)
    assert all(fault.plant(small()) is None for fault in BLACKBOX if fault.factory == "resume")
