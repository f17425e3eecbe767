"""Training runs of a subject that checks can drive: its train step, its loop, and plain steps in their place."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.access.calls import loss_of, needed, new_model
from andon.verify.errors import NotApplicable
from andon.verify.observation.optimizers import asks_again, innermost, stepped
from andon.verify.observation.parameters import State, trainable
from andon.verify.observation.step_trace import StepTrace, trace_step
from andon.verify.subject import Batch, Loop, Subject

RATE = 1e-3  # of the optimizer that a subject without one is given

Made = TypeVar("Made")  # a run, or an optimizer with its model


class NamedOptimizer(NamedTuple):
    """An optimizer, and the model that it trains."""

    name: str  # as a message calls it
    model: nn.Module
    optimizer: Optimizer


class Run(NamedTuple):
    """A run, and one step of it."""

    name: str  # as a message calls it
    model: nn.Module
    optimizer: Optimizer
    act: Callable[[list[Batch]], Mapping[str, Any] | None]  # a loop takes its own batches
    loop: Loop | None = None  # where there is one

    def step(self, batches: Sequence[Batch] = ()) -> StepTrace:
        """One step, traced."""
        return trace_step(self.model, lambda: self.act(list(batches)))


Make = Callable[[], Run]


def each_run(check: Callable[[Subject, Make], None]) -> Callable[[Subject], None]:
    """A check of the subject's train step and of its loop, whichever it has; not applicable where it has neither."""
    return _of_each(check, lambda subject: [*_stepping(subject), *_looping(subject)])


def each_run_or_plain(check: Callable[[Subject, Make], None]) -> Callable[[Subject], None]:
    """The same; a subject without a train step takes plain ones."""
    return _of_each(check, lambda subject: [partial(own_run, subject), *_looping(subject)])


def each_optimizer(check: Callable[[Subject, NamedOptimizer], None]) -> Callable[[Subject], None]:
    """A check of the optimizer that the subject's factory gives and of its loop's, whichever it has."""

    @wraps(check)
    def of_made(subject: Subject, make: Callable[[], NamedOptimizer]) -> None:
        check(subject, make())

    return _of_each(of_made, _holding)


def own_run(subject: Subject, model: nn.Module | None = None, optimizer: Optimizer | None = None) -> Run:
    """The subject's step on a new model with a new optimizer, or on these; a plain step where it has none."""
    model = new_model(subject).train() if model is None else model
    optimizer = new_optimizer(subject, model) if optimizer is None else optimizer
    if subject.train_step is not None:
        step = subject.train_step
        return Run("Subject.train_step", model, optimizer, lambda batches: step(model, optimizer, batches))
    return Run("a plain step", model, optimizer, lambda batches: _plain(subject, model, optimizer, batches))


def step_run(subject: Subject) -> Run:
    """The subject's step on a new model.

    Raises:
        NotApplicable: it has none.
    """
    needed(subject, "train_step")
    return own_run(subject)


def loop_run(subject: Subject) -> Run:
    """A new run of the subject's loop.

    Raises:
        NotApplicable: it has none.
    """
    loop: Loop = needed(subject, "loop")()
    return of_loop(loop)


def of_loop(loop: Loop, name: str = "Subject.loop") -> Run:
    """A loop as a run."""
    return Run(name, loop.model, loop.optimizer, lambda _: loop.step(), loop)


def new_optimizer(subject: Subject, model: nn.Module) -> Optimizer:
    """The subject's optimizer, or AdamW without decay."""
    if subject.optimizer is not None:
        return subject.optimizer(model)
    return torch.optim.AdamW(trainable(model).values(), lr=RATE, weight_decay=0.0)


def as_scheduled(subject: Subject, optimizer: Optimizer) -> Callable[[int], None]:
    """What puts the rates of update 0, 1, ... into an optimizer, as far as the subject says them."""
    if subject.lr_scheduler is not None:
        schedule = subject.lr_scheduler(optimizer)

        def advance(number: int) -> None:
            if number and not asks_a_metric(schedule):
                schedule.step()

        return advance
    if subject.lr_at is not None:
        rate, largest = subject.lr_at, max(float(group["lr"]) for group in optimizer.param_groups) or 1.0
        shares = [float(group["lr"]) / largest or 1.0 for group in optimizer.param_groups]

        def write(number: int) -> None:
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = float(rate(number)) * share

        return write
    return lambda _: None


def asks_a_metric(schedule: Any) -> bool:
    """Whether a schedule's step wants more than to be called, as one that waits for a plateau does."""
    given = inspect.signature(schedule.step).parameters.values()
    return any(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in given)


def the_update(run: Run, step: StepTrace) -> State:
    """The gradients of a step's one update.

    Raises:
        NotApplicable: it made none or several, or they belong to other tensors than the model's (master weights).
    """
    if len(step.updates) != 1:
        raise NotApplicable(f"one optimizer update per step ({run.name} made {len(step.updates)})")
    if not step.updates[0].gradients:
        raise NotApplicable("an optimizer over the model's own parameters")
    return step.updates[0].gradients


def _of_each(
    check: Callable[[Subject, Callable[[], Made]], None], ways: Callable[[Subject], list[Callable[[], Made]]]
) -> Callable[[Subject], None]:
    """The check, run for each way to make what it looks at; not applicable where it is so for all."""

    @wraps(check)
    def run_for_each(subject: Subject) -> None:
        lacks, passed = [NotApplicable("train_step or loop")], False
        for make in ways(subject):
            try:
                check(subject, make)
                passed = True
            except NotApplicable as lack:
                lacks.append(lack)
        if not passed:
            raise lacks[-1]

    return run_for_each


def _stepping(subject: Subject) -> list[Make]:
    return [] if subject.train_step is None else [partial(own_run, subject)]


def _looping(subject: Subject) -> list[Make]:
    return [] if subject.loop is None else [partial(loop_run, subject)]


def _holding(subject: Subject) -> list[Callable[[], NamedOptimizer]]:
    given: list[Callable[[], NamedOptimizer]] = [] if subject.optimizer is None else [partial(_given, subject)]
    return given if subject.loop is None else [*given, partial(_of_loop, subject)]


def _given(subject: Subject) -> NamedOptimizer:
    model = new_model(subject).train()
    return NamedOptimizer("Subject.optimizer", model, innermost(new_optimizer(subject, model)))


def _of_loop(subject: Subject) -> NamedOptimizer:
    loop: Loop = needed(subject, "loop")()
    return NamedOptimizer("Subject.loop's optimizer", loop.model, innermost(loop.optimizer))


def _plain(subject: Subject, model: nn.Module, optimizer: Optimizer, batches: list[Batch]) -> dict[str, float]:
    def evaluated() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(subject, model, batches[0])
        loss.backward()
        return loss.detach()

    if asks_again(optimizer):
        return {"loss": float(optimizer.step(evaluated))}  # ty: ignore[no-matching-overload] - torch types a closure by float
    loss = evaluated()
    stepped(optimizer)
    return {"loss": float(loss)}
