"""Batch statistics of copies that follow a model."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, update_bn

from andon.door.records import Run
from andon.door.statements.averages import check_buffers
from andon.door.statistics import Statistics
from andon.verify.errors import CheckFailed, NotApplicable
from tests.door.recorded import Light, light_of
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
Copies = dict[str, Any]
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
Y = (X[:, 0] > 1).long()


def run_of(moves: Callable[[nn.Module, Any], None], shown: Callable[[nn.Module, Any], nn.Module], **more: Any) -> Run:
    """Trains, moves what follows after each step, and evaluates it."""
    torch.manual_seed(0)
    watching = Watching()
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    other = more.get("makes", deepcopy)(model)
    optimizer = watching.optimizer(model.parameters())
    for _ in range(12):
        model.train()
        if more.get("frozen"):
            model[1].eval()
        watching.step(optimizer, cross_entropy(watching.call(model, X), Y))
        moves(model, other)
    with torch.no_grad():
        watching.call(shown(model, other), X)
    return watching.run


@torch.no_grad()
def weights(model: nn.Module, other: nn.Module) -> None:
    """An average of parameters alone."""
    for one, p in zip(other.parameters(), model.parameters(), strict=True):
        one.lerp_(p, 0.1)


def all_of_it(model: nn.Module, other: nn.Module) -> None:
    """With the statistics."""
    weights(model, other)
    for one, each in zip(other.buffers(), model.buffers(), strict=True):
        one.copy_(each)


def evaluated(_: nn.Module, other: nn.Module) -> nn.Module:
    """The copy."""
    return other.eval()


def updated(_: nn.Module, other: nn.Module) -> nn.Module:
    """After its statistics are made anew."""
    update_bn([X], other)
    return other.eval()


def average(model: nn.Module, other: AveragedModel) -> None:
    """Torch's own."""
    other.update_parameters(model)


def loaded(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """A dictionary put into the model."""
    names = dict(model.named_parameters())
    model.load_state_dict(state | {name: 0.5 * p.detach() for name, p in names.items()})
    return model.eval()


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    """A dictionary of all that the model has."""
    return {name: each.clone() for name, each in model.state_dict().items()}


@pytest.mark.parametrize(
    ("moves", "shown", "more", "light"),
    [
        (weights, evaluated, {}, CheckFailed),
        (all_of_it, evaluated, {}, None),
        (weights, evaluated, {"frozen": True}, NotApplicable),
        (weights, lambda _, other: other.train(), {}, NotApplicable),
        (lambda *_: None, evaluated, {}, NotApplicable),
        (lambda *_: None, lambda model, _: model.eval(), {}, NotApplicable),
        (average, evaluated, {"makes": AveragedModel}, None),
        (average, updated, {"makes": AveragedModel}, None),
        (lambda *_: None, loaded, {"makes": copied}, CheckFailed),
    ],
    ids=["parameters alone", "buffers", "frozen", "train", "first", "model", "swa", "update_bn", "dictionary"],
)
def test_a_copy_is_evaluated_with_statistics_of_its_own_weights(
    moves: Any, shown: Any, more: dict[str, Any], light: Light
) -> None:
    """Behavior: red where a copy follows and its statistics are those of the beginning; not where none have moved."""
    assert light is light_of(check_buffers, run_of(moves, shown, **more))


def test_what_a_copy_begins_with_is_noted_where_it_is_made() -> None:
    """Behavior: one that is made in the midst of training has the statistics of then."""
    run = Run()
    statistics, norm = Statistics(run), nn.BatchNorm1d(3)
    norm.running_mean = torch.tensor([1.0, 2.0, 3.0])
    statistics.made(norm)
    assert statistics._made[norm].statistics.tolist() == [1.0, 2.0, 3.0, 1.0, 1.0, 1.0]
