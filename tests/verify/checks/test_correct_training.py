"""Correct training of many kinds is not accused, and the fault beside each is found."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.run.report import RED, YELLOW
from andon.verify.run.runner import check
from andon.verify.subject import Subject
from tests.verify.checks.test_odd_training import Loop, adamw, looping, plainly, stepping
from tests.verify.small import VOCAB, Small, batch, loss, small

pytestmark = pytest.mark.long
GREEN, ABSENT = "green", "not applicable"
Step = Callable[[Any, Any, list[Any]], Mapping[str, float]]


def light(subject: Subject, name: str) -> str:
    """The light of this one check: red, yellow, green, or that it does not apply."""
    report = check(subject, only=(name,))
    assert not any(finding.mistake for finding in report.findings), report.findings
    return report.findings[0].light if report.findings else GREEN if report.passed else ABSENT


# ---------------------------------------------------------------------------------------------- copies that follow
class Taught(Small):
    """A model with a frozen copy of its own head."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = copy.deepcopy(self.head).requires_grad_(False)


def averaging(change: Callable[[Tensor, Tensor], object]) -> Step:
    """A step after which the copy is changed."""

    def step(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
        logged = plainly(model, optimizer, batches)
        with torch.no_grad():
            change(model.slow.weight, model.head.weight)
        return logged

    return step


COPIES = {
    "average": (lambda slow, fast: slow.lerp_(fast, 0.1), GREEN, GREEN),
    "target that is copied": (lambda slow, fast: slow.copy_(fast), GREEN, GREEN),
    "pushed away": (lambda slow, fast: slow.add_(0.1 * (slow - fast)), YELLOW, RED),
    "grows": (lambda slow, fast: slow.mul_(0.9).add_(fast), YELLOW, RED),
    "runs ahead": (lambda slow, fast: slow.add_(1.5 * (fast - slow)), YELLOW, YELLOW),
    "drifts": (lambda slow, _: slow.add_(1e-3), YELLOW, YELLOW),
}


@pytest.mark.parametrize(("change", "movement", "averages"), COPIES.values(), ids=COPIES)
def test_a_copy_may_follow_what_learns(change: Callable[..., object], movement: str, averages: str) -> None:
    """Behavior: a frozen copy that moves toward the learning weights passes, one that moves away does not."""

    def learned(model: nn.Module) -> Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    subject = stepping(averaging(change), model=Taught, optimizer=learned)
    assert (movement, averages) == (light(subject, "updates.movement"), light(subject, "updates.averages"))


def test_what_the_optimizer_moves_although_it_is_frozen_is_wrong() -> None:
    """Behavior: a frozen tensor among an optimizer's own that moves is red."""
    subject = stepping(averaging(lambda slow, _: slow.mul_(0.9)), model=Taught)
    assert light(subject, "updates.movement") == RED


# ---------------------------------------------------------------------------------------------- optimizers and steps
def by_closure(clear: bool) -> Step:
    """A step of an optimizer that asks for the loss again and again."""

    def step(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
        def again() -> Tensor:
            if clear:
                optimizer.zero_grad()
            total = torch.stack([loss(model, each) for each in batches]).mean()
            total.backward()
            return total

        return {"loss": float(optimizer.step(again).detach())}

    return step


@pytest.mark.parametrize(("clear", "outcome"), [(True, GREEN), (False, RED)])
def test_the_gradient_beneath_a_closure_is_compared(clear: bool, outcome: str) -> None:
    """Behavior: an optimizer with a closure makes one update a step, of a fresh gradient; a stale one is found."""
    subject = stepping(by_closure(clear), optimizer=lambda model: torch.optim.LBFGS(model.parameters(), max_iter=3))
    assert light(subject, "updates.fresh") == outcome
    assert light(subject, "updates.single") == GREEN


def test_an_optimizer_with_a_closure_needs_no_step() -> None:
    """Behavior: a plain step gives a closure to the optimizer that asks for one."""
    subject = small(optimizer=lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1))
    assert light(subject, "updates.overfit") == GREEN


def uphill(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """Sharpness-aware: the gradient is taken a little uphill."""
    optimizer.zero_grad()
    loss(model, batches[0]).backward()
    kept = [(p, p.detach().clone()) for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * p.grad)
    optimizer.zero_grad()
    total = loss(model, batches[0])
    total.backward()
    with torch.no_grad():
        for p, old in kept:
            p.copy_(old)
    optimizer.step()
    return {"loss": float(total)}


def test_a_gradient_that_is_taken_elsewhere_is_not_compared() -> None:
    """Behavior: a gradient of other weights than a step begins with is not held to that of the first."""
    assert light(stepping(uphill), "updates.gradient") == ABSENT


def by_hand(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """Gradients of several objectives are put together by a rule of the step's own."""
    optimizer.zero_grad()
    own = list(model.parameters())
    for p, gradient in zip(own, torch.autograd.grad(loss(model, batches[0]), own), strict=True):
        p.grad = 2 * gradient
    optimizer.step()
    return {}


def test_gradients_that_are_put_together_by_hand_are_not_compared() -> None:
    """Behavior: a step whose gradients come from no backward pass is not held to the loss's; one by backward is."""
    assert light(stepping(by_hand), "updates.gradient") == ABSENT
    assert light(stepping(weighed(4.0)), "updates.gradient") == GREEN  # clipped
    assert light(stepping(doubled), "updates.gradient") == RED


def doubled(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """A step of twice the loss."""
    optimizer.zero_grad()
    (2 * loss(model, batches[0])).backward()
    optimizer.step()
    return {}


def weighed(share: float) -> Step:
    """A step of a share of the loss."""

    def step(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
        optimizer.zero_grad()
        (share * loss(model, batches[0])).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        return {}

    return step


def hooked(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """A step in which hooks make every gradient smaller."""
    handles = [p.register_hook(lambda gradient: 0.25 * gradient) for p in model.parameters()]
    plainly(model, optimizer, batches)
    for handle in handles:
        handle.remove()
    return {}


@pytest.mark.parametrize(("step", "outcome"), [(weighed(1.0), GREEN), (weighed(0.25), RED), (hooked, RED)])
def test_a_clip_is_told_from_a_lost_factor(step: Step, outcome: str) -> None:
    """Behavior: a clip that nobody has named passes, and a gradient that is too small by a constant is found."""
    assert light(stepping(step), "updates.gradient") == outcome


def in_turn(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """Two updates, each of parameters of its own."""
    for name in ("embed", "head"):
        optimizer.zero_grad(set_to_none=True)
        own = list(model.get_submodule(name).parameters())
        for p, gradient in zip(own, torch.autograd.grad(loss(model, batches[0]), own), strict=True):
            p.grad = gradient
        optimizer.step()
    return {}


def again_and_again(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """Two updates on all that there is."""
    plainly(model, optimizer, batches)
    return plainly(model, optimizer, batches)


def each_alone(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """An update for each micro-batch."""
    return [plainly(model, optimizer, [each]) for each in batches][-1]


@pytest.mark.parametrize(("step", "outcome"), [(in_turn, GREEN), (again_and_again, YELLOW), (each_alone, RED)])
def test_players_in_turn_make_an_update_each(step: Step, outcome: str) -> None:
    """Behavior: updates of other parameters each are right, several of all unusual, one a micro-batch wrong."""
    assert light(stepping(step), "updates.single") == outcome


# ---------------------------------------------------------------------------------------------- nothing to learn
class Shifted(Small):
    """A bias that the loss does not change with, or a layer that is cut off."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.detached, self.shift = detached, nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        logits = super().forward(tokens)
        return logits + (self.shift.detach() * torch.arange(VOCAB) if self.detached else 0 * self.shift)


@pytest.mark.parametrize(("detached", "outcome"), [(False, GREEN), (True, YELLOW)])
def test_what_the_loss_does_not_change_with_has_nothing_to_learn(detached: bool, outcome: str) -> None:
    """Behavior: a parameter of gradient 0 that the loss is the same for passes; one that is cut off is said."""
    subject = stepping(plainly, model=lambda: Shifted(detached=detached))
    assert light(subject, "updates.movement") == outcome


class Choosing(Small):
    """Two experts, one of which is chosen a token, weighted by the router or by 1."""

    def __init__(self, *, divided: bool) -> None:
        super().__init__()
        self.divided, self.router = divided, nn.Linear(VOCAB, 2, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        logits = super().forward(tokens)
        weight, chosen = self.router(logits).softmax(-1).topk(1, dim=-1)
        if self.divided:
            weight = weight / (weight.sum(-1, keepdim=True) + 1e-20)
        return logits * weight * (1 + chosen)


@pytest.mark.parametrize(("divided", "outcome"), [(False, GREEN), (True, YELLOW)])
def test_a_gradient_of_rounding_teaches_nothing(divided: bool, outcome: str) -> None:
    """Behavior: a router that is divided by itself is said to have no gradient but rounding."""
    assert light(small(model=lambda: Choosing(divided=divided)), "updates.signal") == outcome


# ---------------------------------------------------------------------------------------------- states
class Counting(Small):
    """Each pass in training mode leaves its mark in a buffer, which the next one reads."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        logits = super().forward(tokens) * self.count
        if self.training:
            self.count = self.count * 1.5
        return logits


def stale(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """A step that does not clear gradients."""
    loss(model, batches[0]).backward()
    optimizer.step()
    return {}


@pytest.mark.parametrize(("step", "outcome"), [(plainly, GREEN), (stale, RED)])
def test_buffers_are_where_they_were_when_a_gradient_is_computed_again(step: Step, outcome: str) -> None:
    """Behavior: state that moves in a forward pass is put back before the reference; stale gradients are found."""
    assert light(stepping(step, model=Counting), "updates.fresh") == outcome


# ---------------------------------------------------------------------------------------------- optimizers by hand
class Twofold(Optimizer):
    """Adam, by states of other names; a fault may be in it."""

    def __init__(self, params: Any, lr: float = 1e-3, eps: float = 1e-8, fault: str = "") -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "eps": eps})
        self.fault = fault

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's signature
        """One update."""
        for group in self.param_groups:
            (one, two), eps = group["betas"], group["eps"]
            for p in (each for each in group["params"] if each.grad is not None):
                state = self.state[p]
                if not state:
                    state |= {"number": 0, "first": torch.zeros_like(p), "second": torch.zeros_like(p)}
                state["number"] += 1
                state["first"].lerp_(p.grad, 1 - one)
                state["second"].lerp_(p.grad.square(), 1 - two)
                p.sub_(group["lr"] * self.change(state, one, two, eps))

    def change(self, state: dict[str, Any], one: float, two: float, eps: float) -> Tensor:
        """What a rate is multiplied with."""
        mean = state["first"] / (1 - one ** state["number"])
        return mean / ((state["second"] / (1 - two ** state["number"])).sqrt() + eps)


class Uncorrected(Twofold):
    """The means as they are."""

    def change(self, state: dict[str, Any], one: float, two: float, eps: float) -> Tensor:  # noqa: ARG002
        """What a rate is multiplied with."""
        return state["first"] / (state["second"].sqrt() + eps)


class Inside(Twofold):
    """Eps within the root."""

    def change(self, state: dict[str, Any], one: float, two: float, eps: float) -> Tensor:
        """What a rate is multiplied with."""
        mean = state["first"] / (1 - one ** state["number"])
        return mean / (state["second"] / (1 - two ** state["number"]) + eps).sqrt()


@pytest.mark.parametrize(("kind", "outcome"), [(Twofold, GREEN), (Uncorrected, YELLOW), (Inside, YELLOW)])
def test_what_keeps_the_means_of_adam_is_held_to_adam(kind: type[Twofold], outcome: str) -> None:
    """Behavior: an optimizer is known by what it keeps, not by its name or the names of its states."""
    assert light(small(optimizer=lambda model: kind(model.parameters())), "optimizer.parity") == outcome


def forgetful(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """A step before which all states are cleared."""
    optimizer.state.clear()
    return plainly(model, optimizer, batches)


@pytest.mark.parametrize(("step", "outcome"), [(plainly, GREEN), (forgetful, RED)])
def test_a_running_mean_is_known_by_what_it_holds(step: Step, outcome: str) -> None:
    """Behavior: momentum under another name is followed, and found where it is forgotten."""
    subject = stepping(step, optimizer=lambda model: Twofold(model.parameters()))
    assert light(subject, "updates.momentum") == outcome


def grouped(kind: Callable[..., Optimizer], *, vectors: float) -> Callable[[nn.Module], Optimizer]:
    """An optimizer whose matrices decay, and whose vectors do as is said."""

    def build(model: nn.Module) -> Optimizer:
        matrices = [p for p in model.parameters() if p.dim() > 1]
        rest = [p for p in model.parameters() if p.dim() < 2]
        return kind([{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": vectors}], lr=1e-3)

    return build


def test_decay_is_judged_by_what_is_said_of_it() -> None:
    """Behavior: decay within the gradient passes unless another is said; vectors that decay are unusual."""
    old = small(optimizer=grouped(torch.optim.Adam, vectors=0.0))
    said = small(optimizer=grouped(torch.optim.Adam, vectors=0.0), hyperparameters={"weight_decay": 0.1})
    usual = small(optimizer=grouped(torch.optim.AdamW, vectors=0.0))
    all_of_it = small(optimizer=grouped(torch.optim.AdamW, vectors=0.01))
    lights = [light(subject, "optimizer.decay") for subject in (old, said, usual, all_of_it)]
    assert [ABSENT, RED, GREEN, YELLOW] == lights


# ---------------------------------------------------------------------------------------------- schedules
def scheduled(build: Callable[[Optimizer], Any], **settings: float) -> Subject:
    """A subject with a scheduler."""
    return small(lr_scheduler=build, optimizer=adamw, hyperparameters=settings)


def linear(factor: Callable[[int], float]) -> Callable[[Optimizer], Any]:
    """A scheduler of a factor."""
    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def test_schedules_end_wait_for_a_metric_or_begin_at_zero() -> None:
    """Behavior: a schedule may refuse a step past its end, or wait for a metric; a rate below 0 is wrong."""
    ends = scheduled(lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=150))
    waits = scheduled(torch.optim.lr_scheduler.ReduceLROnPlateau)
    begins = scheduled(linear(lambda step: min(1.0, step / 4)))
    climbs = scheduled(linear(lambda step: 1 - step / 9))
    names = ("schedule.peak", "schedule.start")
    assert [GREEN, GREEN] == [light(ends, name) for name in names]
    assert [ABSENT, ABSENT] == [light(waits, name) for name in names]
    assert [GREEN, YELLOW] == [light(begins, name) for name in names]
    assert light(climbs, "schedule.peak") == RED


def test_a_short_run_is_followed_to_its_end() -> None:
    """Behavior: a rate below zero in the last step of a run that says how short it is, is found."""
    rates = (1e-3,) * 8

    def outcome(last: float, name: str) -> str:
        return light(looping(rates=(*rates, last), hyperparameters={"learning_rate": 1e-3, "steps": 9}), name)

    assert [GREEN, RED] == [outcome(last, "schedule.run") for last in (1e-4, -1e-4)]


# ---------------------------------------------------------------------------------------------- evaluation
def evaluated(
    rows: slice = slice(None), columns: slice = slice(None), *, all_counted: bool = False
) -> Callable[..., float]:
    """The mean over some batches and places, or their sum over the number of all."""

    @torch.no_grad()
    def validate(model: nn.Module, batches: list[Any]) -> float:
        was, total, count = model.training, 0.0, 0
        model.eval()
        for each in batches[rows]:
            part = {key: value[:, columns] for key, value in each.items()}
            total += float(loss(model, part)) * part["labels"].numel()
            count += (each if all_counted else part)["labels"].numel()
        model.train(was)
        return total / count

    return validate


EVALUATIONS = {
    "all": (evaluated(), {}, GREEN),
    "cut": (evaluated(slice(2)), {}, YELLOW),
    "cut, as is said": (evaluated(slice(2)), {"eval_batches": 2}, GREEN),
    "cut elsewhere than is said": (evaluated(slice(3)), {"eval_batches": 2}, RED),
    "the last places": (evaluated(columns=slice(-3, None)), {}, YELLOW),
    "the last places, over all": (evaluated(columns=slice(-3, None), all_counted=True), {}, RED),
}


@pytest.mark.parametrize(("validate", "said", "outcome"), EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluation_of_a_part_may_be_meant(
    validate: Callable[..., float], said: dict[str, float], outcome: str
) -> None:
    """Behavior: a cut that is said passes, another is unusual; a sum of other tokens than are counted is wrong."""
    assert light(small(validate=validate, hyperparameters=said), "evaluation.mean") == outcome


class Averaging(Loop):
    """A run that evaluates an average of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.average = copy.deepcopy(self.model)

    def validate(self) -> float:
        """Of the average."""
        with torch.no_grad():
            return float(loss(self.average, batch(torch.Generator().manual_seed(99))))


@pytest.mark.parametrize(("run", "seed", "outcome"), [(Loop, 99, GREEN), (Loop, 7, YELLOW), (Averaging, 99, ABSENT)])
def test_an_average_may_be_what_is_evaluated(run: Callable[[], Any], seed: int, outcome: str) -> None:
    """Behavior: an evaluation of other weights than those that train is not held to them; other data is noticed."""
    given = [batch(torch.Generator().manual_seed(seed))]
    assert light(small(loop=run, validation_batches=lambda: given), "evaluation.held_out") == outcome


def left_in_eval(model: nn.Module, batches: list[Any]) -> float:
    """Whoever trains on sets the mode."""
    with torch.no_grad():
        return sum(float(loss(model.eval(), each)) for each in batches) / len(batches)


def after_train(model: Any, optimizer: Any, batches: list[Any]) -> Mapping[str, float]:
    """A step that sets the mode."""
    return plainly(model.train(), optimizer, batches)


@pytest.mark.parametrize(("step", "outcome"), [(after_train, YELLOW), (plainly, RED), (None, YELLOW)])
def test_the_step_may_set_the_mode(step: Step | None, outcome: str) -> None:
    """Behavior: that evaluation ends in eval mode is unusual, and wrong where the next step does not set the mode."""
    subject = small(validate=left_in_eval, train_step=step, optimizer=adamw)
    assert light(subject, "evaluation.mode") == outcome


class Twice(Loop):
    """A run of two micro-batches a step: different ones, or one twice."""

    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.again = again

    def step(self) -> Mapping[str, float]:
        """On two batches."""
        first, second = (batch(torch.Generator().manual_seed(2 * self.number + i)) for i in range(2))
        self.number += 1
        return plainly(self.model, self.optimizer, [first, first if self.again else second])


@pytest.mark.parametrize(("again", "outcome"), [(False, GREEN), (True, YELLOW)])
def test_micro_batches_of_a_step_are_different_ones(again: bool, outcome: str) -> None:
    """Behavior: a step that sees one batch twice is noticed."""
    assert light(small(loop=lambda: Twice(again=again)), "updates.rows") == outcome
