"""Parameters that a model computes with, and that are registered nowhere."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from andon.door.records import Run
from andon.door.statements.registered import check_registered
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
Keep = Callable[[list[nn.Module]], Any]


class Layered(nn.Module):
    """Layers between two that are registered, as one is told to keep them."""

    def __init__(self, keep: Keep, *, first: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6) if first else nn.Identity(), nn.Linear(6, 6)
        self.inner = keep([nn.Linear(6, 6) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) to the same."""
        x = self.first(x)
        for each in self.inner.values() if isinstance(self.inner, dict) else self.inner:
            x = x + each(x).relu()
        return self.last(x)


def ran(model: nn.Module, *, others: Any = (), by_hand: Any = (), steps: int = 16) -> Run:
    """A run of a model; others are held by an optimizer that never steps, some are moved by hand."""
    torch.manual_seed(0)
    watching = Watching()
    optimizer = watching.optimizer(model.parameters())
    if others:
        watching.optimizer(others)
    for _ in range(steps):
        watching.step(optimizer, watching.call(model, torch.randn(8, 6)).square().mean())
        for p in by_hand:
            p.data -= 0.01 * p.grad
    return watching.run


def resting(layers: list[nn.Module]) -> list[nn.Module]:
    """A helper's, in eval mode."""
    return [each.eval() for each in layers]


def frozen(layers: list[nn.Module]) -> list[nn.Module]:
    """A helper's, without gradients."""
    return [each.requires_grad_(False) for each in layers]


@pytest.mark.parametrize(
    ("keep", "light"),
    [
        (nn.ModuleList, None),
        (list, CheckFailed),
        (tuple, CheckFailed),
        (lambda layers: {str(place): each for place, each in enumerate(layers)}, CheckFailed),
        (resting, None),
        (frozen, None),
    ],
    ids=["ModuleList", "list", "tuple", "dict", "eval", "frozen"],
)
def test_layers_in_a_plain_container_are_red(keep: Keep, light: Light) -> None:
    """Behavior: red between trained layers, in a list, a tuple or a dict; silent where they rest or are registered."""
    assert light is light_of(check_registered, ran(Layered(keep)))


def test_what_is_said_of_them() -> None:
    """Behavior: how many, their shapes, where they are kept and what registers them."""
    with pytest.raises(
        CheckFailed, match=r"4 parameters \(6, 6\), \(6,\) .* Layered.inner is a list of 2 Linear; .*nn.M"
    ):
        check_registered(ran(Layered(list)))


def test_what_nothing_trained_is_beneath_is_yellow() -> None:
    """Behavior: a body whose features a trained head reads may be somebody's who wants it as it is."""
    assert light_of(check_registered, ran(Layered(list, first=False))) is Unusual


def test_what_another_optimizer_holds_or_a_hand_moves_is_not_left() -> None:
    """Behavior: silent where an optimizer that has yet to step holds them, or the script moves them itself."""
    for how in ("others", "by_hand"):
        model = Layered(list)
        held = [p for each in model.inner for p in each.parameters()]
        assert light_of(check_registered, ran(model, **{how: held})) is None  # ty: ignore[invalid-argument-type]


class Scaled(nn.Module):
    """A layer, and factors that it does not have."""

    def __init__(self, factors: list[Tensor]) -> None:
        super().__init__()
        self.linear, self.factor = nn.Linear(6, 6), lambda x: [x := x * each for each in factors][-1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6) to the same."""
        return self.factor(self.linear(x))


@pytest.mark.parametrize(
    ("factor", "light"), [(nn.Parameter(torch.ones(6)), Unusual), (torch.ones(6, requires_grad=True), None)]
)
def test_a_parameter_that_no_module_has_is_yellow(factor: Tensor, light: Light) -> None:
    """Behavior: a parameter that nobody holds; a tensor that only has a gradient is something else."""
    assert light is light_of(check_registered, ran(Scaled([factor])))


def test_a_run_of_few_steps_is_not_asked() -> None:
    """Behavior: not applicable before the fourth step."""
    assert light_of(check_registered, ran(Layered(list), steps=3)) is NotApplicable
