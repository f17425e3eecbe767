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
from andon.door.statements.evaluation import check_random
from andon.door.statements.steps import check_clip_order
from andon.door.stepping import StepNotes
from andon.verify.errors import CheckFailed, Unusual
from tests.door.recorded import light_of
from tests.door.test_statements import stepped
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


def accumulated(between: Callable[[Any], Any] = lambda _: None, *, bound: float = 0.0) -> Optimizing:
    """An optimizer of three steps of two micro-batches; before each, something is done, and the gradient clipped."""
    parameter, nothing = nn.Parameter(torch.ones(3)), lambda _: None
    run, windows = (
        Run(),
        SimpleNamespace(backward=nothing, backward_ended=lambda: None, before_step=nothing, after_step=nothing),
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


def evaluated(draw: Callable[[], Tensor]) -> Run:
    """A run that evaluates three times by two passes, each on what `draw` gives."""
    model, run = nn.Linear(3, 1), Run(steps=10)
    run.optimizing[0] = stepped()
    run.optimizing[0].model = model
    fork = SimpleNamespace(possible=False)
    windows = SimpleNamespace(call=lambda module, call, args, kwargs, **_: call(module, *args, **kwargs), fork=fork)
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
