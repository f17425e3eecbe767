"""What is noted of steps, backward passes and evaluations, by the notes alone."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from andon.door.backward import BackwardNotes
from andon.door.forward import ForwardNotes
from andon.door.records import Optimizing, Run, summed
from andon.door.statements.evaluation import check_gradients, check_random
from andon.door.statements.steps import check_clip_order, check_clip_scale
from andon.door.stepping import StepNotes
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.test_statements import stepped
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


def accumulated(between: Callable[[Any], Any] = lambda _: None, *, bound: float = 0.0) -> Optimizing:
    """An optimizer of three steps of two micro-batches; before each, something is done, and the gradient clipped."""
    parameter, nothing = nn.Parameter(torch.ones(3)), lambda _: None
    run, windows = (
        Run(),
        SimpleNamespace(
            backward=nothing,
            backward_ended=lambda: None,
            before_step=nothing,
            after_step=nothing,
        ),
    )
    optimizer = torch.optim.SGD([parameter])
    each = run.optimizing[id(optimizer)] = Optimizing(optimizer, None)
    steps = StepNotes(run, windows, lambda: None)  # ty: ignore[invalid-argument-type] - all that is asked of it here
    backward = BackwardNotes(run, windows)._around(Tensor.backward)  # ty: ignore[invalid-argument-type]
    for _ in range(3):
        for row in torch.randn(2, 3):
            backward((parameter * row).sum())
        between(parameter)
        if bound:
            steps.clipped([parameter], bound, nn.utils.clip_grad_norm_(parameter, bound))
        steps.before(optimizer)
        steps.after(optimizer)
        optimizer.zero_grad()
    return each


def test_sums_of_micro_batches_are_seen() -> None:
    """Behavior: the sum of two is, clipped as well; one that is divided later, or is no sum any more, is not."""
    torch.manual_seed(0)
    assert 2 == summed(accumulated())
    assert 2 == summed(accumulated(bound=0.1))
    assert 1 == summed(accumulated(lambda p: p.grad.div_(2)))
    assert 1 == summed(accumulated(lambda p: p.grad.div_(2), bound=0.1))
    assert 1 == summed(accumulated(lambda p: p.grad.add_(torch.randn(3))))


def clipped_between(*, one_loss: bool) -> Run:
    """Steps of two backward passes, of one loss or of two, clipped between them."""
    watching, parameter = Watching(), nn.Parameter(torch.ones(3))
    optimizer = watching.optimizer([parameter])
    for _ in range(4):
        for place in range(2):
            if place and not one_loss:
                watching.backward(parameter.sum())
            else:
                watching.backward(parameter.square().sum())
            if not place:
                watching.clip([parameter], 0.1)
        watching.move(optimizer)
    return watching.run


def test_clipping_between_backward_passes() -> None:
    """Behavior: red between micro-batches of one loss, yellow between two losses, as one of them may be bounded."""
    assert CheckFailed is light_of(check_clip_order, clipped_between(one_loss=True))
    assert Unusual is light_of(check_clip_order, clipped_between(one_loss=False))


@pytest.mark.parametrize(
    ("scale", "unscales", "light"), [(1.0, False, NotApplicable), (8.0, True, None), (8.0, False, CheckFailed)]
)
def test_gradients_are_unscaled_before_they_are_clipped(scale: float, unscales: bool, light: Light) -> None:
    """Behavior: not asked of a scale of 1, nothing where they are unscaled, and red where they are not."""
    watching, parameter = Watching(), nn.Parameter(torch.ones(3))
    optimizer, scaling = watching.optimizer([parameter]), watching.run.scaling
    for _ in range(4):
        loss = parameter.square().sum()
        scaling.scale(SimpleNamespace(is_enabled=lambda: True, get_scale=lambda: scale), loss)
        watching.backward(scale * loss)
        if unscales:
            scaling.unscale_(None, optimizer)
        watching.clip([parameter], 0.1)
        watching.move(optimizer)
        scaling.update()
    assert light is light_of(check_clip_scale, watching.run)


@pytest.mark.parametrize(("grad", "light"), [(False, None), (True, Unusual)])
def test_an_evaluation_keeps_no_graph(grad: bool, light: Light) -> None:
    """Behavior: passes that no backward pass follows, with gradients on, are yellow."""
    watching, model = Watching(), nn.Linear(3, 1)
    optimizer = watching.optimizer(model.parameters())
    for step in range(12):
        watching.step(optimizer, watching.call(model, torch.randn(4, 3)).square().mean())
        if step % 4 == 3:
            with torch.set_grad_enabled(grad):
                for _ in range(2):
                    watching.call(model.eval(), torch.randn(4, 3))
            model.train()
    assert light is light_of(check_gradients, watching.run)


def evaluated(draw: Callable[[], Tensor]) -> Run:
    """A run that evaluates three times by two passes, each on what `draw` gives."""
    model, run = nn.Linear(3, 1), Run(steps=10)
    run.optimizing[0] = stepped()
    run.optimizing[0].model = model
    fork = SimpleNamespace(possible=False)
    windows = SimpleNamespace(
        call=lambda module, call, args, kwargs, **_: call(module, *args, **kwargs),
        fork=fork,
        options={"checks": True},
    )
    notes = ForwardNotes(run, windows)  # ty: ignore[invalid-argument-type] - all that is asked of it here
    called = notes._around(nn.Module.__call__)
    for _ in range(3):
        with torch.no_grad():
            for _ in range(2):
                called(model.eval(), draw())
        called(model.train(), torch.ones(4, 3)).sum().backward()
    return run


def test_noise_of_an_evaluation_is_yellow() -> None:
    """Behavior: noise from the global generator, in each stretch; chosen rows, and noise of its own, are not."""
    data, own = torch.ones(9, 3), torch.Generator()
    check_random(evaluated(lambda: data[torch.randint(9, (4,))]))
    check_random(evaluated(lambda: torch.randn(4, 3, generator=own)))
    with pytest.raises(Unusual, match=r"in 3 of 3 stretches .*: randn draws them"):
        check_random(evaluated(lambda: torch.randn(4, 3)))
