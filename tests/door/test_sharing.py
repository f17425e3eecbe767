"""What several optimizers do to the same tensors."""

from typing import Any

import pytest
import torch
from torch import nn

from andon.door.records import Run
from andon.door.statements.sharing import check_left_gradients, check_two_optimizers
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


def duel(*, shared: bool, takes_over: bool = False) -> Run:
    """Two optimizers that step in turn, or one after the other; the second may hold what the first has, too."""
    torch.manual_seed(0)
    watching, one, other = Watching(), nn.Linear(4, 4), nn.Linear(4, 4)
    first = watching.optimizer(one.parameters())
    second = watching.optimizer([*other.parameters(), *(one.parameters() if shared else ())])
    for step in range(8):
        for optimizer in [[first, second][step >= 4]] if takes_over else [first, second]:
            watching.step(optimizer, watching.call(other, watching.call(one, torch.randn(3, 4))).square().mean())
    return watching.run


def test_a_tensor_that_two_optimizers_move_in_turn_is_yellow() -> None:
    """Behavior: back and forth alone; not where each has its own, nor where the second takes over."""
    assert light_of(check_two_optimizers, duel(shared=False)) is None
    assert light_of(check_two_optimizers, duel(shared=True, takes_over=True)) is None
    with pytest.raises(Unusual, match=r"Linear\.weight \(4, 4\) is moved by two optimizers"):
        check_two_optimizers(duel(shared=True))


class Wrapper(torch.optim.SGD):
    """Steps by another optimizer of the same parameters, and adds a step of its own."""

    def __init__(self, watching: Watching, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups[0]["params"], lr=0.01)
        self.watching, self.inner = watching, inner

    def step(self, closure: Any = None) -> Any:
        """Both."""
        self.watching._steps.before(self.inner)
        self.inner.step()
        self.watching._steps.after(self.inner)
        return super().step(closure)


def test_a_step_within_a_step_is_a_part_of_it() -> None:
    """Behavior: a wrapper and what it wraps are one optimizer; a single one is not asked."""
    watching, model = Watching(), nn.Linear(4, 4)
    inner = watching.optimizer(model.parameters())
    wrapper = Wrapper(watching, inner)
    assert light_of(check_two_optimizers, watching.run) is NotApplicable
    for _ in range(8):
        watching.step(wrapper, watching.call(model, torch.randn(3, 4)).square().mean())
    assert light_of(check_two_optimizers, watching.run) is None


def adversarial(*, detaches: bool, zeroes: bool, one_pass: bool = False) -> Run:
    """A critic's step and a generator's, by losses of their own, or by one."""
    torch.manual_seed(0)
    watching, generator, critic = Watching(), nn.Linear(4, 4), nn.Linear(4, 1)
    first, second = watching.optimizer(critic.parameters()), watching.optimizer(generator.parameters())

    def move(optimizer: torch.optim.Optimizer) -> None:
        watching._steps.before(optimizer)
        optimizer.step()
        watching._steps.after(optimizer)

    for _ in range(6):
        first.zero_grad()
        second.zero_grad()
        made = watching.call(generator, torch.randn(3, 4))
        loss = watching.call(critic, made.detach() if detaches else made).square().mean()
        watching.backward(loss)
        move(first)
        if not one_pass:
            if zeroes:
                second.zero_grad()
            watching.backward(watching.call(critic, watching.call(generator, torch.randn(3, 4))).sum())
        move(second)
    return watching.run


def test_gradients_of_an_answered_loss_are_yellow() -> None:
    """Behavior: where they are neither detached nor zeroed; not where one backward pass serves both steps."""
    assert light_of(check_left_gradients, adversarial(detaches=True, zeroes=False)) is None
    assert light_of(check_left_gradients, adversarial(detaches=False, zeroes=True)) is None
    assert light_of(check_left_gradients, adversarial(detaches=False, zeroes=False, one_pass=True)) is None
    assert light_of(check_left_gradients, duel(shared=False)) is None
    with pytest.raises(Unusual, match="in 6 of 6 steps"):
        check_left_gradients(adversarial(detaches=False, zeroes=False))
