"""What a watched loop throws away, leaves out or puts nowhere: each statement green, unasked, broken."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from andon.door.loading import LoadNotes
from andon.door.places import Place
from andon.door.records import Passes, Run
from andon.door.statements.data import check_held_out, check_order
from andon.door.statements.kept import check_gradient
from andon.door.statements.optimizers import check_group_learns, check_norms_decay
from andon.door.statements.rates import check_rate_peak
from andon.door.statements.references import check_frozen, check_reference, check_stands
from andon.door.statements.resuming import check_loaded, check_put_back, check_saved
from andon.door.statements.steps import check_all_used
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import Asks, Light, light_of
from tests.door.test_statements import run_of, stepped
from tests.door.watching import Watching

pytestmark = pytest.mark.tier2


def accumulated(*, throws: bool, combines: bool = False) -> Run:
    """Steps of two micro-batches; the first one's gradient may be thrown away, or kept by the script."""
    torch.manual_seed(0)
    watching, model = Watching(), nn.Linear(6, 6)
    optimizer = watching.optimizer(model.parameters())
    for _ in range(6):
        kept = torch.zeros(6, 6)
        for _ in range(2):
            if throws:
                optimizer.zero_grad()
            watching.backward(watching.call(model, torch.randn(8, 6)).square().mean())
            kept += model.weight.grad if combines and model.weight.grad is not None else 0
        if combines:
            model.weight.grad = kept
        watching.move(optimizer)
    return watching.run


def test_gradients_that_are_thrown_away_are_yellow() -> None:
    """Behavior: micro-batches before the last are; none are where they add up, or where the script keeps them."""
    check_all_used(accumulated(throws=False))
    check_all_used(accumulated(throws=True, combines=True))
    with pytest.raises(Unusual, match="of 2 backward passes each"):
        check_all_used(accumulated(throws=True))


@pytest.mark.parametrize(
    ("rates", "light"),
    [
        ([0.1 * step for step in range(30)], Unusual),
        ([0.1 * (step // 8) for step in range(32)], Unusual),
        ([min(1.0, 0.1 * step) for step in range(30)], None),
        ([1.0] * 30, NotApplicable),
        ([0.1 * step for step in range(10)], NotApplicable),
    ],
    ids=["rises", "rises by epochs", "comes to its peak", "stays", "short"],
)
def test_a_rate_that_only_rises_is_yellow(rates: list[float], light: Light) -> None:
    """Behavior: a warm-up that ends is none; not asked of a rate that stays, or of a few steps."""
    each = stepped(len(rates))
    each.rates = [(rate,) for rate in rates]
    assert light is light_of(check_rate_peak, run_of(each))


def test_a_group_of_frozen_tensors_is_yellow() -> None:
    """Behavior: a group all of whose tensors are frozen, beside one that learns."""
    each = stepped()
    with pytest.raises(NotApplicable):
        check_group_learns(run_of(each))
    added = nn.Parameter(torch.ones(2))
    each.optimizer.add_param_group({"params": [added]})
    check_group_learns(run_of(each))
    added.requires_grad_(False)
    with pytest.raises(Unusual, match="tensors in group 1"):
        check_group_learns(run_of(each))


def test_steps_without_a_gradient_are_yellow() -> None:
    """Behavior: an optimizer whose tensors have none, though backward passes are made."""
    torch.manual_seed(0)
    watching, old, model = Watching(), nn.Linear(6, 6), nn.Linear(6, 6)
    optimizer = watching.optimizer(old.parameters())
    for _ in range(10):
        watching.step(optimizer, watching.call(model, torch.randn(8, 6)).square().mean())
    with pytest.raises(Unusual, match=r"in 10 of 10 steps .* none of the 2 tensors"):
        check_gradient(watching.run)


def grouped(*decays: float, own: bool = True) -> Run:
    """An optimizer with a decay for its matrix, one for its vectors, or one for all."""
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    vectors = [p for p in model.parameters() if p.dim() < 2]
    matrices = [p for p in model.parameters() if p.dim() > 1]
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": decays[0]}]
    groups = [*groups, {"params": vectors, "weight_decay": decays[-1]}] if own else [{"params": model.parameters()}]
    each = stepped()
    each.optimizer, each.model = torch.optim.AdamW(groups, weight_decay=0.01), model
    return run_of(each)


def test_norms_and_biases_are_spared() -> None:
    """Behavior: groups that set a decay and spare no norm are yellow; not asked where it is one for all."""
    check_norms_decay(grouped(0.1, 0.0))
    with pytest.raises(Unusual, match="spare nothing"):
        check_norms_decay(grouped(0.1, 0.1))
    with pytest.raises(NotApplicable):
        check_norms_decay(grouped(0.01, own=False))


def used(model: nn.Module, *, learns: bool = True) -> Run:
    """A run in which a model makes a pass that it learns from, or that another one does."""
    watching, other = Watching(), nn.Linear(6, 6)
    optimizer = watching.optimizer([*model.parameters(), *other.parameters()])
    x = watching.call(model, torch.randn(8, 6))
    watching.step(optimizer, watching.call(other, x if learns else x.detach()).square().mean())
    return watching.run


def test_what_torch_does_not_read_freezes_nothing() -> None:
    """Behavior: a misspelled attribute of a parameter, and the right one of a module, are red where they learn on."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[0].requires_grad_(False)
    check_frozen(used(model))
    model[1].weight.require_grad = False  # ty: ignore[invalid-assignment]
    with pytest.raises(CheckFailed, match="require_grad was set"):
        check_frozen(used(model))
    check_frozen(used(model, learns=False))
    model[1].weight.requires_grad_(False)
    check_frozen(used(model))
    model[1].requires_grad = False  # ty: ignore[invalid-assignment]
    with pytest.raises(CheckFailed, match="on a Linear"):
        check_frozen(used(model))
    check_frozen(used(model, learns=False))


def test_what_is_evaluated_again_has_changed() -> None:
    """Behavior: an average that is evaluated and stays is yellow; one that moves is not; a teacher is not asked."""

    def run(*, moves: bool, every: int = 6) -> Run:
        torch.manual_seed(0)
        watching, model, average = Watching(), nn.Linear(6, 6), nn.Linear(6, 6)
        optimizer = watching.optimizer(model.parameters())
        for step in range(24):
            watching.step(optimizer, watching.call(model, torch.randn(8, 6)).square().mean())
            if step % every == every - 1:
                with torch.no_grad():
                    average.weight.lerp_(model.weight, 0.1 * moves)
                    watching.call(average, torch.randn(8, 6))
        return watching.run

    check_stands(run(moves=True))
    with pytest.raises(Unusual, match="after 4 different numbers of steps, of 24"):
        check_stands(run(moves=False))
    with pytest.raises(NotApplicable):
        check_stands(run(moves=False, every=1))


def test_a_teacher_that_was_trained_before_is_a_reference() -> None:
    """Behavior: batch statistics that act in it are yellow, once its own training is over; not in eval mode."""

    def run(*, rests: bool) -> Run:
        torch.manual_seed(0)
        watching, teacher, model = Watching(), nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), nn.Linear(6, 6)
        for learner in (teacher, model):
            optimizer = watching.optimizer(learner.parameters())
            for _ in range(12):
                x, due = torch.randn(8, 6), torch.zeros(8, 6)
                if learner is model:
                    with torch.no_grad():
                        due = watching.call(teacher.train(not rests), x)
                watching.step(optimizer, mse_loss(watching.call(learner, x), due))
        return watching.run

    check_reference(run(rests=True))
    with pytest.raises(Unusual, match="acted in 12 of 12 passes"):
        check_reference(run(rests=False))


@pytest.fixture
def noted(patched: None) -> Run:  # noqa: ARG001 - what notes replace is put back
    """A run whose files and states are noted."""
    run = Run()
    LoadNotes(run).install()
    return run


@pytest.mark.parametrize(
    ("names", "light"),
    [
        (lambda name: name, None),
        (lambda name: f"module.{name}", CheckFailed),
        (lambda name: f"other_{name}", CheckFailed),
        (lambda name: name if name.endswith("bias") else f"other_{name}", None),
    ],
    ids=["same", "prefixed", "other", "some"],
)
def test_a_state_of_which_nothing_is_taken_is_red(noted: Run, names: Any, light: Light) -> None:
    """Behavior: names with a prefix, and other ones; a state some of whose names are known passes."""
    state = {names(name): value for name, value in nn.Linear(6, 6).state_dict().items()}
    nn.Linear(6, 6).load_state_dict(state, strict=False)
    assert light is light_of(check_loaded, noted)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_state_that_is_another_modules_is_nothing(noted: Run, order: tuple[int, int]) -> None:
    """Behavior: an encoder's state that its head is offered as well, before it or after it."""
    modules = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6))
    state = modules[1].state_dict()
    for place in order:
        modules[place].load_state_dict(state, strict=False)
    check_loaded(noted)


def test_weights_that_are_put_back_were_copied(noted: Run) -> None:
    """Behavior: a state that is the module's own is yellow, once steps were taken; a copy of it is not."""
    model, noted.steps = nn.Linear(6, 6), 3
    model.load_state_dict(deepcopy(model.state_dict()))
    check_put_back(noted)
    model.load_state_dict(model.state_dict())
    with pytest.raises(Unusual, match="the module's own tensors, 1 times"):
        check_put_back(noted)


def test_an_empty_file_is_yellow(noted: Run, tmp_path: Path) -> None:
    """Behavior: a mapping without entries; not asked where nothing is saved."""
    with pytest.raises(NotApplicable):
        check_saved(noted)
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    check_saved(noted)
    torch.save({}, tmp_path / "adapter.pt")
    with pytest.raises(Unusual, match="an empty mapping was saved 1 times"):
        check_saved(noted)


def passes_of(rows: Tensor, *, batch: int, trained: int = 0, line: int = 3) -> Passes:
    """Passes over rows, in batches."""
    passes = Passes((Place("train.py", line),), count=len(rows) // batch, stretches=1, trained=trained)
    for number, each in enumerate(rows.split(batch)):
        passes.rows.note((each,), 1000 * line + number, line)
    return passes


def asked_of(asks: Asks, *passes: Passes) -> Light:
    """What is said of a run of such passes."""
    return light_of(asks, Run(passes={each.chain: each for each in passes}, steps=40))


def test_a_batch_that_comes_again_is_no_epoch() -> None:
    """Behavior: several steps on each batch, as policies are trained, are not asked for their order; epochs are."""
    rows = torch.arange(640)[:, None]
    again = torch.cat([each.repeat(2, 1) for each in rows.split(64)])
    assert NotApplicable is asked_of(check_order, passes_of(again, batch=64, trained=20))
    assert Unusual is asked_of(check_order, passes_of(rows.repeat(2, 1), batch=64, trained=20))


def test_rows_that_are_alike_by_nature_are_no_leak() -> None:
    """Behavior: held-out rows of which some are the same say nothing of a split, unless nearly all were trained on."""
    kinds = torch.arange(90)[:, None]
    seen = passes_of(kinds[:45], batch=9, trained=5)
    assert Unusual is asked_of(check_held_out, seen, passes_of(kinds, batch=9, line=4))
    assert NotApplicable is asked_of(check_held_out, seen, passes_of(kinds[torch.arange(100) % 90], batch=10, line=4))
