"""A loop that is recorded by lines of its own: what is a step, and what is of which phase."""

import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from andon import tracing
from andon.tracing.loop import Loop
from andon.tracing.phases import Fetch
from andon.tracing.read import RecordedSpan, read_spans

pytestmark = pytest.mark.tier2

PHASES = ["data", "forward", "loss", "backward and clip", "optimizer"]


class Training:
    """A small model and its optimizer."""

    def __init__(self) -> None:
        self.model = nn.Linear(4, 4)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def update(self, x: Tensor) -> None:
        """One step on one batch."""
        self.backward(x)
        self.optimizer.step()

    def backward(self, x: Tensor) -> None:
        """One micro-batch."""
        self.model(x).square().mean().backward()


@pytest.fixture
def training() -> Training:
    """One that has taken no step."""
    return Training()


def batches(count: int) -> Iterator[Tensor]:
    """Of three rows."""
    return (torch.ones(3, 4) for _ in range(count))


def recorded(folder: Path) -> list[RecordedSpan]:
    """What the loop left."""
    return read_spans(folder / "trace.jsonl").spans


def by_step(folder: Path) -> list[list[str]]:
    """The phases of each step, in the order in which they began."""
    spans = sorted(recorded(folder), key=lambda span: span.start)
    steps = [span.span_id for span in spans if span.name == "train.step"]
    return [[span.name for span in spans if span.parent_id == step] for step in steps]


def test_two_lines_tell_fetching_from_the_rest(tmp_path: Path) -> None:
    """Behavior: without `watch` a step is what happens for one batch, and its data the one phase; numbers go on it."""
    with tracing.run(tmp_path) as t:
        for number, _ in enumerate(t.steps(batches(3))):
            t.note(loss=float(number))
    assert [["data"]] * 3 == by_step(tmp_path)
    assert [0.0, 1.0, 2.0] == [s.attributes["train.loss"] for s in recorded(tmp_path) if s.name == "train.step"]


def test_a_third_line_tells_phases_apart(tmp_path: Path, training: Training) -> None:
    """Behavior: with `watch` each step has its phases, with the lines of the loop, and the model is left as it was."""
    with tracing.run(tmp_path) as t:
        t.watch(training.model, training.optimizer)
        for x in t.steps(batches(3)):
            training.update(x)
    assert [PHASES] * 3 == by_step(tmp_path)
    files = {span.attributes["code.file.path"] for span in recorded(tmp_path) if span.name in PHASES}
    assert 1 == len(files)
    assert files.pop().endswith("test_loop.py")
    assert not training.model._forward_hooks
    assert not training.model._forward_pre_hooks


def test_a_step_ends_with_its_optimizers(tmp_path: Path, training: Training) -> None:
    """Behavior: micro-batches of one optimizer's step are one step, and so are two optimizers in turn."""
    other = torch.optim.SGD(training.model.parameters(), lr=0.1)
    with tracing.run(tmp_path) as t:
        t.watch(training.model, training.optimizer, other)
        for number, x in enumerate(t.steps(batches(4))):
            training.backward(x)
            if number % 2:
                training.optimizer.step()
                other.step()
    passes = PHASES[:4]
    assert [[*passes, *passes, "optimizer", "optimizer"]] * 2 == by_step(tmp_path)


def test_what_comes_after_the_optimizer_is_between_steps(tmp_path: Path, training: Training) -> None:
    """Behavior: a span of the loop's own lies between the steps, passes without gradients in no phase."""
    with tracing.run(tmp_path) as t:
        t.watch(training.model, training.optimizer)
        for x in t.steps(batches(2)):
            training.update(x)
            with t.span("validation"), torch.no_grad():
                training.model(x)
    spans = {span.span_id: span for span in recorded(tmp_path)}
    parents = [spans[span.parent_id].name for span in spans.values() if span.name == "validation"]
    assert ["between steps"] * 2 == parents
    assert [PHASES] * 2 == by_step(tmp_path)


def test_a_closure_is_the_optimizers(tmp_path: Path, training: Training) -> None:
    """Behavior: what an optimizer calls itself is of its step, as its own work cannot be told from it."""
    optimizer = torch.optim.LBFGS(training.model.parameters(), max_iter=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = training.model(torch.ones(3, 4)).square().mean()
        loss.backward()
        return loss

    with tracing.run(tmp_path) as t:
        t.watch(training.model, optimizer)
        for _ in t.steps(batches(2)):
            optimizer.step(cast("Callable[[], float]", closure))
    assert [["data", "optimizer"]] * 2 == by_step(tmp_path)


@pytest.mark.parametrize("leave", ["break", "raise"])
def test_a_loop_that_is_left(leave: str, tmp_path: Path, training: Training) -> None:
    """Behavior: the step in which a loop is left is whole; an exception marks it and the run."""
    with suppress(ValueError), tracing.run(tmp_path) as t:
        t.watch(training.model, training.optimizer)
        for x in t.steps(batches(5)):
            training.backward(x)
            if leave == "break":
                break
            raise ValueError
    failed = Counter(span.name for span in recorded(tmp_path) if span.failed)
    assert [PHASES[:4]] == by_step(tmp_path)
    expected = ("train.step", "train window", "train run end") if leave == "raise" else ()
    assert dict.fromkeys(expected, 1) == failed


def fetch(loop: Loop) -> Fetch:
    """A batch that was fetched now."""
    return Fetch(loop.trace.moment(), loop.trace.moment(), "")


def test_whose_a_fetch_was_shows_by_what_follows(tmp_path: Path, training: Training) -> None:
    """Behavior: a fetch before a pass without gradients is of no step; one that comes early is of the step it is in."""
    with tracing.run(tmp_path) as t:
        t.watch(training.model, training.optimizer)
        for _ in range(2):
            t.phases.fetched(fetch(t))
            with torch.no_grad():
                training.model(torch.ones(3, 4))
            t.phases.fetched(fetch(t))
            loss = training.model(torch.ones(3, 4)).square().mean()
            t.phases.fetched(fetch(t))  # for the next step
            loss.backward()
            training.optimizer.step()
    assert [["data", "forward", "loss", "data", "loss", "backward and clip", "optimizer"]] * 2 == by_step(tmp_path)


def test_without_a_loader_a_step_begins_with_its_forward_pass(tmp_path: Path, training: Training) -> None:
    """Behavior: where no fetch is seen nothing is said of data."""
    with tracing.run(tmp_path) as t:
        t.watch(training.model, training.optimizer)
        for x in batches(3):
            training.update(x)
    assert [PHASES[1:]] * 3 == by_step(tmp_path)


def test_a_trainers_data_is_read_before_its_step_begins(
    tmp_path: Path, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: events in the order of transformers 5: data before a step, evaluation and checkpoint after it."""
    library = types.ModuleType("transformers")
    setattr(library, "TrainerCallback", object)  # noqa: B010 - a module's attribute
    monkeypatch.setitem(sys.modules, "transformers", library)
    monkeypatch.delitem(sys.modules, "andon.tracing.trainer", raising=False)
    from andon.tracing.trainer import TraceCallback

    monkeypatch.delitem(sys.modules, "andon.tracing.trainer")
    callback, state = TraceCallback(tmp_path), types.SimpleNamespace(global_step=6)
    slow: dict[str, Any] = {"model": training.model, "optimizer": training.optimizer}

    def say(event: str) -> None:
        getattr(callback, f"on_{event}")(None, state, None, **slow)

    say("train_begin")
    say("epoch_begin")
    for x in batches(3):
        say("step_begin")
        training.update(x)
        say("step_end")
        for event in ("log", "prediction_step", "log", "evaluate", "save"):
            say(event)
    say("train_end")
    spans = recorded(tmp_path)
    assert [PHASES] * 3 == by_step(tmp_path)
    assert [7, 8, 9] == [span.attributes["train.step"] for span in spans if span.name == "train.step"]
    between = {span.span_id for span in spans if span.name == "between steps"}
    assert {"validation": 3, "checkpoint": 3} == Counter(span.name for span in spans if span.parent_id in between)
