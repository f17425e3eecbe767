"""Adapters that are merged into the weights beside them."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from andon.door.records import Run
from andon.door.statements.merges import check_merged
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
X = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 1).long()
RANK, SCALE = 2, 2.0


class Adapted(nn.Module):
    """A frozen layer with an adapter beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(12, 12).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(RANK, 12)), nn.Parameter(torch.zeros(12, RANK))
        self.alone = False

    def forward(self, x: Tensor) -> Tensor:
        """The way through the adapter is gone where it is merged."""
        y = self.base(x)
        return y if self.alone else y + SCALE * linear(linear(x, self.down), self.up)


def merged(factor: float, *, turned: bool = False, alone: bool = True) -> Callable[[nn.Module], nn.Module]:
    """Adds so many times the product to the weights."""

    @torch.no_grad()
    def merge(model: nn.Module) -> nn.Module:
        layer = model.get_submodule("0")
        assert isinstance(layer, Adapted)
        change = factor * layer.up @ layer.down
        layer.base.weight += change.T if turned else change
        layer.alone = alone
        return model

    return merge


def unloaded(factor: float) -> Callable[[nn.Module], nn.Module]:
    """Another module, with weights of its own and no adapter."""

    def merge(model: nn.Module) -> nn.Module:
        other = merged(factor)(deepcopy(model))
        return nn.Sequential(other.get_submodule("0.base"), other.get_submodule("1"), other.get_submodule("2")).eval()

    return merge


def dropped(model: nn.Module) -> nn.Module:
    """Without a change of weights."""
    layer = model.get_submodule("0")
    assert isinstance(layer, Adapted)
    layer.alone = True
    return model


def rounded(model: nn.Module) -> nn.Module:
    """Weights that are moved by something else."""
    layer = model.get_submodule("0.base")
    assert isinstance(layer, nn.Linear)
    layer.weight.data = (layer.weight.data * 8).round() / 8
    return model


def run_of(merge: Callable[[nn.Module], nn.Module], *, step: bool = False, first: bool = False) -> Run:
    """Trains, evaluates, merges, and evaluates again; maybe the base itself was trained first."""
    torch.manual_seed(0)
    watching = Watching()
    model = nn.Sequential(Adapted(), nn.ReLU(), nn.Linear(12, 2).requires_grad_(False))
    if first:
        base = model.get_submodule("0.base").requires_grad_(True)
        watching.step(watching.optimizer(base.parameters()), cross_entropy(watching.call(model, X), Y))
        base.requires_grad_(False)
    optimizer = watching.optimizer(p for p in model.parameters() if p.requires_grad)
    for _ in range(5):
        watching.step(optimizer, cross_entropy(watching.call(model, X), Y))
    model.eval()
    with torch.no_grad():
        watching.call(model, X)
        watching.call(model, X)
    if step:
        watching.step(optimizer, cross_entropy(watching.call(model, X), Y))
    with torch.no_grad():
        watching.call(merge(model), X)
    return watching.run


@pytest.mark.parametrize(
    ("merge", "light"),
    [
        (merged(SCALE), None),
        (unloaded(SCALE), None),
        (merged(1.0), Unusual),
        (unloaded(1.0), Unusual),
        (merged(2 * SCALE), Unusual),
        (merged(SCALE, turned=True), Unusual),
        (merged(SCALE, alone=False), Unusual),
        (dropped, NotApplicable),
        (rounded, NotApplicable),
        (lambda model: model, NotApplicable),
    ],
    ids=[
        "right",
        "unloaded",
        "no scale",
        "unloaded without",
        "twice",
        "turned",
        "left on",
        "dropped",
        "rounded",
        "not",
    ],
)
def test_a_merged_adapter_says_the_same(merge: Callable[[nn.Module], nn.Module], light: Light) -> None:
    """Behavior: yellow where weights change by a multiple of the adapter's product and the answer is another."""
    assert light is light_of(check_merged, run_of(merge))


def test_a_step_in_between_is_another_model() -> None:
    """Behavior: what was said before an optimizer's step is not compared."""
    assert light_of(check_merged, run_of(merged(1.0), step=True)) is NotApplicable


def test_a_base_that_was_trained_before_is_merged_into() -> None:
    """Behavior: an optimizer that held its weights once does not hide it."""
    assert light_of(check_merged, run_of(merged(SCALE), first=True)) is None
    assert light_of(check_merged, run_of(merged(1.0), first=True)) is Unusual
