"""Faults that fit around any subject: each one shows, and none goes where the factory is missing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from andon.verify import check
from andon.verify.faults import detect as detection
from andon.verify.faults.detect import Result, Task, alarms, detect, unit_test
from andon.verify.faults.generic import BY_ID, GENERIC_FAULTS, GenericFault
from andon.verify.faults.jobs import run_jobs
from andon.verify.observation.fingerprint import Fingerprint, changes, fingerprint
from andon.verify.run.report import Finding, Report
from andon.verify.subject import Quantizer, Subject
from tests.subjects import SUBJECTS
from tests.verify import foreign_models, loops
from tests.verify.checks.test_odd_training import adapted, add, merge, plainly, stepping
from tests.verify.small import small

ALWAYS = ("model", "loss")  # what every subject has
PARITY = {"labels-shifted": "reference.loss", "loss-half-detached": "reference.gradients"}
RARE = {"labels-ignored-counted", "dropout-in-eval"}  # show only where something is ignored; are another each time


@pytest.mark.tier3
def test_the_same_subject_shows_nothing() -> None:
    """Behavior: what is seen of a subject is the same each time, and of another it is not."""
    assert [] == changes(small(), fingerprint(small()))
    changed = replace(small(), loss=lambda model, batch: 1.01 * small().loss(model, batch))
    assert changes(changed, fingerprint(small()))


@pytest.mark.tier3
@pytest.mark.parametrize(
    "name", [fault.id for fault in GENERIC_FAULTS if fault.factory in ALWAYS and fault.id not in RARE]
)
def test_a_fault_of_what_every_subject_has_is_live(name: str) -> None:
    """Behavior: injected into a small subject, something that can be seen of it differs."""
    injected = BY_ID[name].inject(small())
    assert injected
    assert changes(injected, fingerprint(small()))


@pytest.mark.tier3
@pytest.mark.parametrize(("name", "finder"), PARITY.items())
def test_parity_with_a_reference_sees_it(name: str, finder: str) -> None:
    """Behavior: around our core, which has a reference, the check of parity is silent, then finds the fault."""
    clean = SUBJECTS["llama"]()
    injected = BY_ID[name].inject(clean)
    assert injected
    assert [] == [finding.check for finding in check(clean, only=(finder,)).findings]
    assert [finder] == [finding.check for finding in check(injected, only=(finder,)).findings]


MADE = {"loops": loops.script, "packed": foreign_models.packing}


def owner(fault: GenericFault) -> str:
    """A subject that has the factory of a fault."""
    return next(name for name, make in MADE.items() if getattr(make(), fault.factory) is not None)


@pytest.fixture(scope="module")
def clean() -> dict[str, dict[str, Fingerprint]]:
    """What is seen of these subjects without a fault."""
    return {name: fingerprint(make()) for name, make in MADE.items()}


@pytest.mark.long
@pytest.mark.parametrize(
    "fault", [fault for fault in GENERIC_FAULTS if fault.factory not in ALWAYS], ids=lambda each: each.id
)
def test_a_fault_of_a_factory_is_live(fault: GenericFault, clean: dict[str, dict[str, Fingerprint]]) -> None:
    """Behavior: injected into a subject that has the factory, something that can be seen of it differs."""
    injected = fault.inject(MADE[owner(fault)]())
    assert injected
    assert changes(injected, clean[owner(fault)])


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("made", "seen", "unseen"),
    [
        (lambda: adapted(add), "adapters.added.mix.a", "adapters.loaded"),
        (lambda: adapted(add, merge), "adapters.0 merge.logits", "adapters.1 unmerge.logits"),
        (lambda: small(config_alternatives={"eps": 1.0}), "model.state", "configured.eps.logits"),
        (lambda: small(quantizer=Quantizer(torch.clone)), "quantizer.(7, 13)", "quantizer.levels under bfloat16"),
        (
            lambda: stepping(plainly, optimizer=Momentum),
            "train_step.2.state.0.settings",
            "train_step.2.state.0.0.momentum_buffer",
        ),
    ],
    ids=["adapters", "merge", "configuration", "quantizer", "momentum"],
)
def test_what_a_subject_lacks_is_not_seen(made: Callable[[], Subject], seen: str, unseen: str) -> None:
    """Behavior: a fingerprint has what the subject has, and nothing was raised for want of the rest."""
    found = fingerprint(made())
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
def test_a_generic_fault_is_detected() -> None:
    """Behavior: what differs and who finds it is told; a subject without the factory says what it needs."""
    task = Task("tests.verify.small:small", ("small",), {"small": fingerprint(small())}, generic="loss-scaled")
    result = detect(None, task)
    assert result.live[0].startswith("small: ")
    assert "loss.definition" in [found.check for found in result.found]
    assert Result((), (), "lr_at") == detect(None, task._replace(generic="rate-late"))
    assert [] == alarms(None, task._replace(subjects=("small/loss.definition", "small/no.check")))
    assert [] == alarms(None, task._replace(subjects=("small/no.check",)))


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("every", "seen", "expected"),
    [
        (False, False, ["a others", "b others", "a parity", "b parity"]),
        (False, True, ["a others"]),
        (True, False, ["a others parity", "b others parity"]),
        (True, True, ["a others parity", "b others parity"]),
    ],
)
def test_a_reference_is_asked_last(
    monkeypatch: pytest.MonkeyPatch, every: bool, seen: bool, expected: list[str]
) -> None:
    """Behavior: checks of parity run where all others see nothing of any subject; with `every`, all run as one."""
    asked = []

    def answer(subject: Subject, only: list[str], first: bool) -> Report:
        assert first is not every
        kinds = {"parity" if name.startswith("reference.") else "others" for name in only}
        asked.append(" ".join([subject.name, *sorted(kinds)]))
        return Report(subject.name, (Finding("loss.scale", "it is 2"), Finding("loss.shapes", "of 3")) if seen else ())

    monkeypatch.setattr(detection, "check", answer)
    monkeypatch.setattr(detection, "load_one", lambda target, name: replace(small(), name=name))
    result = detect(None, Task("", ("a", "b"), {"a": {}, "b": {}}, every))
    assert expected == asked
    places = [("loss.scale", 1), ("loss.shapes", 2)] if seen else []
    assert places * (2 if every else 1) == [(each.check, each.place) for each in result.found]


@pytest.mark.long
def test_a_unit_test_is_green_red_or_cannot_be_run(tmp_path: Path) -> None:
    """Behavior: a job runs a test in its process and says whether it is red; no test at all is an error."""
    written = {"green": "def test_it():\n    pass\n", "red": "def test_it():\n    assert False\n", "none": ""}
    for name, text in written.items():
        (tmp_path / f"test_{name}.py").write_text(text, encoding="utf-8")
    jobs = [(None, f"{tmp_path / f'test_{name}.py'}::test_it") for name in written]
    found = sorted(run_jobs(jobs, unit_test))
    assert [False, True, None] == [outcome.value for outcome in found]
    assert "pytest ended with <ExitCode.USAGE_ERROR" in found[2].error


@pytest.mark.tier1
def test_a_fault_without_its_factory_is_not_injected() -> None:
    """Behavior: what a subject lacks cannot be wrong; what it has can."""
    assert all(fault.inject(small()) for fault in GENERIC_FAULTS if fault.factory in ALWAYS)
    assert all(fault.inject(small()) is None for fault in GENERIC_FAULTS if fault.factory == "resume")
