"""Rows that a model is evaluated on: which of them it had learned from, and which look at training rows is none."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from andon.door.learners import Learners
from andon.door.records import Run
from andon.door.statements.data import check_held_out
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import Light, light_of
from tests.door.watching import WORDS, Watching

pytestmark = pytest.mark.tier2
ROWS, FOLDS = 8, 4


class Folds:
    """K-fold cross-validation: a fresh model for each fold, or one for all; figures of other rows beside it."""

    def __init__(
        self, *, leaks: bool = False, one: bool = False, copies: bool = False, beside: str = "", scaled: int = 0
    ) -> None:
        torch.manual_seed(0)
        self.scaled = scaled
        self.watching, self.leaks, self.copies, self.beside = Watching(), leaks, copies, beside
        self.folds = list(torch.randn(FOLDS, 10, ROWS, 6))
        self.others = torch.randn(FOLDS, 10, ROWS, 6)
        model = nn.Linear(6, 6)
        for fold in range(FOLDS):
            model = model if one else nn.Linear(6, 6)
            self.fit(model, fold)

    def fit(self, model: nn.Module, fold: int) -> None:
        """Train on the other folds, of this one on most of its rows where it leaks, and test on this one."""
        optimizer = self.watching.optimizer(model.parameters())
        self.folds = [each * (1 + 0.1 * self.scaled) for each in self.folds]  # by figures of the rows that are left
        own = self.folds[fold][:8] if self.leaks else self.folds[fold][:0]
        seen = torch.cat([*(each for place, each in enumerate(self.folds) if place != fold), own])
        count = ROWS * len(seen)
        for x in seen.flatten(0, 1)[torch.cat([torch.randperm(count), torch.randperm(count)])].split(ROWS):
            self.watching.step(optimizer, self.watching.call(model, x).square().mean())
        with torch.no_grad():
            for x in self.others[fold] if self.beside else ():
                self.watching.call(model, x)
            tested = deepcopy(model) if self.copies else model
            for x in seen if self.beside == "all" else self.folds[fold]:
                self.watching.call(tested, x)


@pytest.mark.parametrize(
    ("folds", "light"),
    [
        ({}, None),
        ({"copies": True}, None),
        ({"beside": "others"}, None),
        ({"beside": "all"}, None),
        ({"one": True}, Unusual),
        ({"leaks": True}, Unusual),
        ({"leaks": True, "copies": True}, Unusual),
        ({"leaks": True, "beside": "others"}, Unusual),
        ({"leaks": True, "scaled": 1}, Unusual),
    ],
    ids=[
        "apart",
        "copies",
        "beside",
        "training rows",
        "one model",
        "leaks",
        "copies leak",
        "leaks beside",
        "leaks scaled",
    ],
)
def test_each_fold_has_a_model_of_its_own(folds: dict[str, bool], light: Light) -> None:
    """Behavior: rows that another fold's model learned from are held out; those that this one did are not."""
    assert light is light_of(check_held_out, Folds(**folds).watching.run)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("shared", [True, False])
def test_wrappers_of_one_model_are_no_folds(shared: bool) -> None:
    """Behavior: models of one shape that are given rows of their own are folds, but not where they share weights."""
    torch.manual_seed(0)
    watching, inner = Watching(), nn.Linear(6, 6)
    models = [nn.Sequential(inner if shared else nn.Linear(6, 6)) for _ in range(2)]
    for model, x in zip(models, torch.randn(2, ROWS, 6), strict=True):
        watching.step(watching.optimizer(model.parameters()), watching.call(model, x).square().mean())
    with torch.no_grad():
        for model, x in zip(models, torch.randn(2, ROWS, 6), strict=True):
            watching.call(model, x)
    run = watching.run
    (evaluated,) = (each for each in run.passes.values() if not each.trained)
    assert Learners(run).share(evaluated, run.begun).folds is not shared


def mined(*, evaluates: bool) -> Run:
    """All training rows are looked at each epoch, before they are trained on; perhaps others are evaluated on."""
    torch.manual_seed(0)
    watching, model, rows = Watching(), nn.Linear(6, 6), torch.randn(20, ROWS, 6)
    optimizer, others = watching.optimizer(model.parameters()), torch.randn(10, ROWS, 6)
    for _ in range(3):
        with torch.no_grad():
            watching.call(model, rows.flatten(0, 1))
        for x in rows[torch.randperm(20)]:
            watching.step(optimizer, watching.call(model, x).square().mean())
        with torch.no_grad():
            for x in others if evaluates else ():
                watching.call(model, x)
    return watching.run


def test_mining_is_no_evaluation() -> None:
    """Behavior: training rows are looked at where others are evaluated on; alone they are asked, being all there is."""
    check_held_out(mined(evaluates=True))
    with pytest.raises(Unusual, match="160 of 160"):
        check_held_out(mined(evaluates=False))


class Says(nn.Module):
    """The next token of a text (B, T), ever the one after the last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.embed(ids) + 100 * nn.functional.one_hot((ids + 1) % WORDS, WORDS)


@pytest.mark.parametrize(("prompt", "light"), [(2, None), (4, Unusual)])
def test_rows_that_generation_makes_are_not_asked(prompt: int, light: Light) -> None:
    """Behavior: a text that is answered as it was trained on is no leak; a prompt that is a row of training is."""
    torch.manual_seed(0)
    watching, model = Watching(), Says()
    optimizer = watching.optimizer(model.parameters())
    begins = torch.cartesian_prod(torch.arange(12), torch.arange(12))[:128]
    texts = torch.cat([begins, (begins[:, 1:] + torch.arange(1, 3)) % WORDS], dim=1)
    for _ in range(4):
        for x in texts.split(ROWS):
            watching.step(optimizer, watching.call(model, x).square().mean())
        with torch.no_grad():
            text = texts[:, :prompt]
            for _ in range(3):
                text = torch.cat([text, watching.call(model, text)[:, -1:].argmax(-1)], dim=1)
    assert light is light_of(check_held_out, watching.run)


@pytest.mark.parametrize(
    ("trains", "evaluates", "light"),
    [
        ("draws", "draws", NotApplicable),
        ("draws", "stays", Unusual),
        ("epochs", "draws", Unusual),
        ("steps twice", "draws", Unusual),
    ],
)
def test_rows_of_a_small_world_come_again(trains: str, evaluates: str, light: Light) -> None:
    """Behavior: not asked where both are drawn anew; yellow where evaluated rows stay, or training has epochs."""
    torch.manual_seed(0)
    watching, model, world = Watching(), nn.Linear(6, 6), torch.randn(1200, 6)
    optimizer, order = watching.optimizer(model.parameters()), torch.randperm(1200)
    for step in range(150):
        number = step // 2 if trains == "steps twice" else step
        drawn = torch.randint(1200, (ROWS,)) if trains == "draws" else order[(8 * number) % 1200 :][:ROWS]
        watching.step(optimizer, watching.call(model, world[drawn]).square().mean())
        if step % 30 == 29:
            seen = order if evaluates == "stays" else torch.randperm(1200)
            with torch.no_grad():
                watching.call(model, world[seen[:100]])
    assert light is light_of(check_held_out, watching.run)
