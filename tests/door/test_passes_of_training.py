"""Passes without gradients that training needs, a reference's, a teacher's, beside those of an evaluation."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from andon.door.records import Run
from andon.door.statements.data import check_held_out
from andon.door.statements.references import check_stands
from andon.verify.errors import NotApplicable, Unusual
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2
FIRST, THEN, ROWS = 40, 24, 8


def batches(count: int, seed: int) -> Iterator[Tensor]:
    """Rows of one set, none of which comes twice."""
    yield from torch.randn(count, ROWS, 6, generator=torch.Generator().manual_seed(seed))


def two_stages(every: int, *, other: bool = False) -> Run:
    """A model that learns; then another beside it, which is used without gradients on the batches of each few steps."""
    torch.manual_seed(0)
    watching, model, rests = Watching(), nn.Linear(6, 6), nn.Linear(6, 6)
    optimizer = watching.optimizer(model.parameters())
    for x in batches(FIRST, 0):
        watching.step(optimizer, watching.call(model, x).square().mean())
    for step, x in enumerate(batches(THEN, 1)):
        due: Tensor | float = 0.0
        if step % every == 0:
            with torch.no_grad():
                due = watching.call(rests if other else model, x)
        watching.step(optimizer, (watching.call(model, x) - due).square().mean())
    return watching.run


def trained_in_one_place(*, leaks: bool) -> Run:
    """All passes come from one line, as a trainer's do: of 64 steps, and of an evaluation after each 16."""
    torch.manual_seed(0)
    watching, model = Watching(), nn.Linear(6, 6)
    optimizer = watching.optimizer(model.parameters())
    train, held = list(batches(64, 0)), list(batches(16, 0 if leaks else 1))
    for step in range(64):
        for x in [*([*held, train[step]] if step % 16 == 15 else [train[step]])]:
            learns = x is train[step]
            with nullcontext() if learns else torch.no_grad():
                loss = watching.call(model, x).square().mean()
            if learns:
                watching.step(optimizer, loss)
    return watching.run


def test_rows_of_a_reference_are_no_evaluation() -> None:
    """Behavior: passes with each step of a late stage are training's; those with every third come before them."""
    with pytest.raises(NotApplicable):
        check_held_out(two_stages(1))
    check_held_out(two_stages(3))


def test_a_teacher_of_a_late_stage_may_stand() -> None:
    """Behavior: one that is used in each step is not asked whether it has changed; one of every third step is."""
    with pytest.raises(NotApplicable):
        check_stands(two_stages(1, other=True))
    with pytest.raises(Unusual, match="after 8 different numbers of steps, of 64"):
        check_stands(two_stages(3, other=True))


def test_a_trainers_evaluation_is_told_from_its_training() -> None:
    """Behavior: passes of one line are two kinds, with gradients and without: rows are shared, or they are not."""
    check_held_out(trained_in_one_place(leaks=False))
    with pytest.raises(Unusual, match="128 of 128 rows"):
        check_held_out(trained_in_one_place(leaks=True))


def first_without_gradients(*, learns_from: bool, acts: int = 30) -> Run:
    """A policy acts by a part of it, learns from that or from other rows; states come again in an evaluation."""
    torch.manual_seed(0)
    watching, model = Watching(), nn.Sequential(nn.Linear(6, 6))
    optimizer = watching.optimizer(model.parameters())
    world, others = torch.randn(30, ROWS, 6), torch.randn(30, ROWS, 6)
    for step in range(90):
        if step % 3 == 0 and step // 3 < acts:
            with torch.no_grad():
                watching.call(model[0], world[step // 3])
        rows = world if learns_from else others
        watching.step(optimizer, watching.call(model, rows[step // 3]).square().mean())
        if step % 30 == 29:
            with torch.no_grad():
                for x in rows[: step // 3]:
                    watching.call(model, x)
    return watching.run


def test_states_that_a_policy_acts_on_are_not_held_out() -> None:
    """Behavior: not asked where rows are acted on before they are learned from; yellow where few are, or others."""
    with pytest.raises(NotApplicable, match="that are held out"):
        check_held_out(first_without_gradients(learns_from=True))
    for run in (first_without_gradients(learns_from=True, acts=5), first_without_gradients(learns_from=False, acts=0)):
        with pytest.raises(Unusual, match="232 of 232 rows"):
            check_held_out(run)


@pytest.mark.parametrize("later", [False, True])
def test_a_first_look_is_no_evaluation(later: bool) -> None:
    """Behavior: rows that are read without gradients before the first step are not asked; the same rows later are."""
    torch.manual_seed(0)
    watching, model, rows = Watching(), nn.Linear(6, 6), list(batches(30, 0))
    optimizer = watching.optimizer(model.parameters())

    def look() -> None:
        with torch.no_grad():
            for x in rows:
                watching.call(model, x)

    look()
    for x in rows:
        watching.step(optimizer, watching.call(model, x).square().mean())
    for _ in range(later):
        look()
    with pytest.raises(Unusual if later else NotApplicable):
        check_held_out(watching.run)


class Output:
    """What a model returns: an object of a class of its own."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.names = logits, ("a", "b")


class Named(nn.Module):
    """Returns such an object."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Output:
        """(B, F) to logits."""
        return Output(self.head(x))


def test_passes_that_return_an_object_are_passes_of_training() -> None:
    """Behavior: a gradient that reaches what the object holds shows it."""
    watching, model = Watching(), Named()
    optimizer = watching.optimizer(model.parameters())
    for x in batches(4, 0):
        watching.step(optimizer, watching.call(model, x).logits.square().mean())
    (passes,) = watching.run.passes.values()
    assert passes.count == passes.trained > 0
