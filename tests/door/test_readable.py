"""Passes in which there is nothing to note, and methods that are no pass: the script goes on as it would alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from andon.door.readable import is_readable
from andon.door.wrapping import around
from andon.verify.capturing.methods import method_around
from tests.door.watching import Watching

pytestmark = [
    pytest.mark.tier2,
    pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning"),
]


class Around(nn.Module):
    """Has a pass of another made, which is noted."""

    def __init__(self, inner: nn.Module, watching: Watching) -> None:
        super().__init__()
        self.inner, self.watching = inner, watching

    def forward(self, x: Tensor) -> Tensor:
        """As the other."""
        return self.watching.call(self.inner, x)


def fake(call: Callable[..., Tensor], _: Tensor) -> object:
    """A pass of shapes alone."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return call(torch.ones(2, 3))


WITHOUT_NUMBERS = {
    "vmap": lambda call, x: torch.func.vmap(call)(x),
    "jacobian": lambda call, x: torch.func.jacrev(call)(x),
    "jit.trace": lambda call, x: torch.jit.trace(call, x, check_trace=False),
    "fake": fake,
    "fx": lambda call, _: torch.fx.symbolic_trace(call),
}


@pytest.mark.parametrize("how", WITHOUT_NUMBERS)
def test_a_pass_without_numbers_is_left_alone(how: str) -> None:
    """Behavior: one that is traced or transformed is made as it would be alone, and none of it is noted."""
    watching, model = Watching(), nn.Linear(3, 2)
    WITHOUT_NUMBERS[how](Around(model.requires_grad_(False), watching), torch.ones(2, 3))
    assert {} == watching.run.passes
    watching.call(model, torch.ones(2, 3))
    assert [1] == [each.count for each in watching.run.passes.values()]


def test_a_model_without_numbers_is_left_alone() -> None:
    """Behavior: passes of a model on the meta device, and of one whose parameters have no shape yet, are not noted."""
    watching = Watching()
    watching.call(nn.Linear(3, 2, device="meta"), torch.ones(2, 3, device="meta"))
    watching.call(nn.LazyLinear(2), torch.ones(2, 3))
    assert {} == watching.run.passes


@pytest.mark.parametrize(
    "given",
    [torch.eye(3).to_sparse(), torch.ones(3, 3, dtype=torch.cfloat).conj()],
    ids=["sparse", "conjugate"],
)
def test_what_a_pass_is_given_need_not_be_dense(given: Tensor) -> None:
    """Behavior: numbers that numpy does not know, or knows otherwise, do not end the script."""
    watching, model = Watching(), nn.Linear(3, 2, dtype=given.dtype)
    for _ in range(2):
        watching.call(model, given)
    assert [2] == [each.count for each in watching.run.passes.values()]
    assert (given.layout == torch.strided) == is_readable(given)


class Twice(nn.Module):
    """Two parts, tried in the constructor; methods that evaluate in three ways, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.found = [method_around(self.one)]

    @torch.no_grad()
    def decorated(self) -> None:
        """Without gradients."""
        self.found.append(method_around(self.one))

    def within(self) -> None:
        """The same."""
        with torch.no_grad():
            self.found.append(method_around(self.one))

    def switched(self) -> None:
        """In eval mode."""
        self.eval()
        self.found.append(method_around(self.one))

    def plain(self) -> None:
        """As it is called."""
        self.found.append(method_around(self.one))


def test_methods_that_set_a_mode_and_constructors_are_no_pass() -> None:
    """Behavior: of all of them the one that sets nothing is found."""
    model = Twice()
    for method in (model.decorated, model.within, model.switched):
        method()
    assert [None] * 4 == model.found
    model.plain()
    assert (model, Twice, "plain") == model.found[-1]


def test_a_method_that_has_a_mode_set_is_taken_back() -> None:
    """Behavior: one whose parts are all called in another mode than itself is no pass, and its parts are."""
    watching, model = Watching(), Twice()

    def helped(self: Any, x: Tensor) -> Tensor:
        with torch.inference_mode():
            return watching.call(self.one, x)

    noted = watching.method(helped, "helped")
    noted(model, torch.ones(2, 3))
    assert {} == watching.run.passes
    noted(model, torch.ones(2, 3))
    assert [model.one] == [module for each in watching.run.passes.values() for module in each.modules.values()]


def test_a_method_may_be_called_on_what_is_no_module() -> None:
    """Behavior: a class beside the model may share its method."""
    assert 3 == Watching().method(lambda _, x: x, "shared")(object(), 3)


def test_a_noted_method_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: TorchScript finds the names that the method's own module has."""
    monkeypatch.setattr(Compiled, "forward", Compiled.forward)
    around(Compiled, "forward", lambda original: original)
    assert torch.equal(torch.jit.script(Compiled())(torch.ones(2)), torch.ones(2))


class Compiled(nn.Module):
    """Uses a name of this module."""

    def forward(self, x: Tensor) -> Tensor:
        """As it is."""
        return functional.relu(x)
