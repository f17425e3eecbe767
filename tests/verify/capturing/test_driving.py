"""`verify.driven`: a function that trains waits between its steps."""

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from andon import verify

pytestmark = pytest.mark.tier2


class Training:
    """A function that trains by a plain loop with a schedule, and what it did."""

    def __init__(self, steps: int = 4, *, seeded: bool = True, keep: bool = False) -> None:
        self.steps, self.seeded, self.keep = steps, seeded, keep
        self.log: list[str] = []

    def __call__(self) -> None:
        """One batch a step."""
        if self.seeded:
            torch.manual_seed(0)
        model, teacher = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), nn.Linear(3, 1).requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        kept = []
        try:
            for _ in range(self.steps):
                self.log.append("batch")
                x = torch.randn(2, 3)
                loss = (model(x) - teacher(x)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                kept += [loss] if self.keep else []
                schedule.step()
                self.log.append("schedule")
        finally:
            self.log.append("end")


def test_it_waits_where_a_window_begins() -> None:
    """Behavior: before the first pass with gradients, and then before that of each further step."""
    training = Training()
    run = verify.driven(training)
    weights = run.model.get_parameter("0.weight").detach().clone()
    assert (["batch"], 0.5) == (training.log, run.optimizer.param_groups[0]["lr"])
    assert {} == run.step()
    assert (["batch", "schedule", "batch"], 0.25) == (training.log, run.optimizer.param_groups[0]["lr"])
    assert not torch.equal(weights, run.model.get_parameter("0.weight"))


def test_a_run_that_is_over_says_so() -> None:
    """Behavior: its last step ends with the function; one more is refused, as is a run without a step."""
    run = verify.driven(Training(2))
    run.step()
    run.step()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="let it train for more steps"):
            run.step()
    with pytest.raises(RuntimeError, match="is over"):
        verify.driven(Training(0))


@pytest.mark.parametrize("end", ["close", "forget"])
def test_it_ends_with_its_driver(end: str) -> None:
    """Behavior: closed or forgotten, the function's `finally` runs, its thread ends, and torch's call is as before."""
    call, training, threads = nn.Module.__call__, Training(), threading.active_count()
    run, other = verify.driven(training), verify.driven(Training())
    other.close()
    assert nn.Module.__call__ is not call
    run.step()
    if end == "close":
        run.close()
    else:
        del run
        gc.collect()
    assert "end" == training.log[-1]
    assert threads == threading.active_count()
    assert nn.Module.__call__ is call


def test_it_ends_where_it_would_wait_again() -> None:
    """Behavior: a pause of its `finally` block does not wait for a driver that is gone."""
    ends = list[str]()
    pauses: list[Callable[[dict[str, float]], str]] = []

    def train() -> None:
        try:
            pauses[0]({})
        finally:
            try:
                pauses[0]({})
            finally:
                ends.append("end")

    threads = threading.active_count()
    verify.driven(train, pause_at=pauses.append).close()
    assert (["end"], threads) == (ends, threading.active_count())


def test_an_error_of_the_function_is_raised_where_it_is_driven() -> None:
    """Behavior: the function's own error, in the driver's thread."""

    def train() -> None:
        raise KeyError("data")

    with pytest.raises(KeyError, match="data"):
        verify.driven(train)


def test_pauses_elsewhere() -> None:
    """Behavior: `pause_at` puts the pauses where it likes; what is said and told goes through."""
    told: list[str] = []
    callbacks: list[Callable[[dict[str, float]], str]] = []

    def train() -> None:
        for number in range(3):
            told.extend(each({"loss": float(number)}) for each in callbacks)

    run = verify.driven(train, pause_at=callbacks.append)
    assert [{"loss": 1.0}, {"loss": 2.0}] == [run.step(), run.proceed("save")]
    assert ["step", "save"] == told
    with pytest.raises(verify.NotApplicable, match="a model and its optimizer"):
        _ = run.model


def subject(training: Callable[[], Any]) -> verify.Subject:
    """With this function as its loop."""
    return verify.Subject(
        model=lambda: nn.Linear(3, 1),
        batch=lambda generator: torch.randn(2, 3, generator=generator),
        loss=lambda model, batch: model(batch).square().mean(),
        loop=lambda: verify.driven(training),
    )


def test_checks_drive_it() -> None:
    """Behavior: checks of a loop pass on a correct function; what it cannot do by itself is not applicable."""
    report = verify.check(subject(Training(50)), only=("resume", "memory", "schedule", "evaluation", "updates"))
    report.raise_if_found()
    assert {"resume.determinism", "memory.growth", "updates.movement"} <= set(report.passed)
    assert "saved between two steps" in report.not_applicable["resume.saving"]


@pytest.mark.parametrize(
    ("fault", "check"), [({"seeded": False}, "resume.determinism"), ({"keep": True}, "memory.growth")]
)
def test_faults_of_it_are_found(fault: dict[str, bool], check: str) -> None:
    """Behavior: a run that is not seeded, and losses that are kept with their graphs, are red."""
    report = verify.check(subject(Training(50, **fault)), only=(check,))
    assert [(check, "red")] == [(each.check, each.light) for each in report.findings]
