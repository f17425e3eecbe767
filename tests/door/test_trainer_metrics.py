"""Figures of a trainer's own function do not read predictions where labels are ignored."""

import sys
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from andon.door import trainer_metrics
from andon.door.records import Run
from andon.door.statements.trainers import check_metrics
from andon.door.trainer_metrics import IGNORED, TrainerMetrics, other_predictions
from andon.verify.errors import NotApplicable, Unusual
from tests.door.recorded import light_of

pytestmark = pytest.mark.tier2

LABELS = np.array([[1, 2, IGNORED, IGNORED, IGNORED, IGNORED], [0, 1, 2, 2, 1, 0]])


class Seen(NamedTuple):
    """What a trainer hands to a function of figures."""

    predictions: Any
    label_ids: Any


def share_of_counted(seen: Seen) -> dict[str, float]:
    """Right answers where labels count."""
    counted = seen.label_ids != IGNORED
    return {"accuracy": float((seen.predictions.argmax(-1) == seen.label_ids)[counted].mean())}


def share_of_all(seen: Seen) -> dict[str, float]:
    """Ignored labels are taken for class 0."""
    return {"accuracy": float((seen.predictions.argmax(-1) == np.maximum(seen.label_ids, 0)).mean())}


class EndedError(BaseException):
    """A child has ended."""


class Child:
    """Stands for a copy of the process."""

    possible = True
    answer: dict[str, Any]

    def begin(self) -> bool:
        """Always in the child."""
        return True

    def end(self, content: dict[str, Any]) -> None:
        """Keeps what it answers."""
        self.answer = content
        raise EndedError


def asked(figures: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in which a trainer evaluates after its first step."""

    class Trainer:
        args, compute_metrics = SimpleNamespace(), staticmethod(figures)

        def evaluation_loop(self) -> dict[str, float]:
            """As transformers' own."""
            return self.compute_metrics(Seen(np.eye(3)[LABELS.clip(0)], LABELS))

    monkeypatch.setitem(sys.modules, "transformers.trainer", SimpleNamespace(Trainer=Trainer))
    monkeypatch.setattr(trainer_metrics, "is_alone", lambda: True)
    monkeypatch.setattr(trainer_metrics, "keep_out", lambda *_: None)
    child, run, model = Child(), Run(), nn.Linear(2, 1)
    windows: Any = SimpleNamespace(fork=child)
    TrainerMetrics(run, windows).install()
    model(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    with pytest.raises(EndedError):
        Trainer().evaluation_loop()
    run.metrics = [child.answer["metrics"]]
    return run


def test_figures_are_asked_with_other_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: silent where ignored places are left out, yellow where they count, not applicable without a trainer."""
    assert light_of(check_metrics, asked(share_of_counted, monkeypatch)) is None
    assert light_of(check_metrics, asked(share_of_all, monkeypatch)) is Unusual
    assert light_of(check_metrics, Run()) is NotApplicable


def test_only_places_beside_ignored_ones_have_other_predictions() -> None:
    """Behavior: a figure may hold a prediction against the next label, so places at a border stay as they are."""
    predictions = LABELS.clip(0)
    others = other_predictions(predictions, LABELS)
    assert others is not None
    assert [[0, 3], [0, 4], [0, 5]] == np.argwhere(others - predictions).tolist()
    assert other_predictions(predictions[:, :4], LABELS) is None
    assert other_predictions(predictions, predictions) is None
