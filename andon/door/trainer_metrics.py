"""Figures that a script's function computes with numpy for transformers' Trainer: which predictions they read."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.optim.optimizer import register_optimizer_step_post_hook

from andon.door.guard import keep_out
from andon.door.records import Run
from andon.door.rehearsal import is_alone
from andon.door.safely import safely
from andon.door.windows import Windows
from andon.verify.capturing.replacing import around

IGNORED = -100


class TrainerMetrics:
    """Asks a trainer's `compute_metrics` once, in a child, with other predictions where labels are ignored."""

    def __init__(self, run: Run, windows: Windows) -> None:
        self.run, self.windows, self.fork = run, windows, windows.fork
        self._looked, self._asked = False, False

    def install(self) -> None:
        """Look for a trainer at the first step: it is loaded by then."""
        register_optimizer_step_post_hook(lambda *_: safely(self.run, self._look))

    def _look(self) -> None:
        module = None if self._looked else sys.modules.get("transformers.trainer")
        self._looked = True
        if module is not None:
            around(module.Trainer, "evaluation_loop", self._around)

    def _around(self, loop: Callable[..., Any]) -> Callable[..., Any]:
        def looped(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            own = trainer.compute_metrics
            if own is None or getattr(trainer.args, "predict_with_generate", False):
                return loop(trainer, *args, **kwargs)
            trainer.compute_metrics = self._asking(own)
            try:
                return loop(trainer, *args, **kwargs)
            finally:
                trainer.compute_metrics = own

        return looped

    def _asking(self, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def computed(seen: Any, *args: Any, **kwargs: Any) -> Any:
            safely(self.run, self._ask, own, seen)
            return own(seen, *args, **kwargs)

        return computed

    def _ask(self, own: Callable[..., Any], seen: Any) -> None:
        others = None if self._asked else other_predictions(seen.predictions, seen.label_ids)
        if others is not None and self.fork.possible and is_alone():
            self._asked = True
            if self.fork.begin():
                self._answer(own, seen, others)

    def _answer(self, own: Callable[..., Any], seen: Any, others: np.ndarray) -> None:
        """In the child: both figures, and its end."""
        keep_out(lambda: self.fork.end({}), lambda: self.run.over)
        try:
            before, after = (own(type(seen)(each, seen.label_ids)) for each in (seen.predictions, others))
            content = {"metrics": {"line": _line(own), "before": _numbers(before), "after": _numbers(after)}}
        except BaseException as error:  # noqa: BLE001 - the child must not go on with the script, whatever happens
            content = {"reason": f"{type(error).__name__}: {error}"}
        self.run.over = True
        self.fork.end(content)


def other_predictions(predictions: Any, labels: Any) -> np.ndarray | None:
    """Predictions (B, T) or (B, T, V) with others at places whose label, and that of both neighbors, is ignored.

    A figure may hold each prediction against the label before or after it. None where there are no such places.
    """
    arrays = isinstance(predictions, np.ndarray) and isinstance(labels, np.ndarray)
    if not arrays or labels.ndim != 2 or predictions.shape[:2] != labels.shape or predictions.ndim > 3:
        return None
    ignored = np.pad(labels == IGNORED, ((0, 0), (1, 1)), constant_values=True)
    free = ignored[:, :-2] & ignored[:, 1:-1] & ignored[:, 2:]
    if not free.any() or (labels == IGNORED).all():
        return None
    others = predictions.copy()
    others[free] = np.roll(predictions[free], 1, axis=-1) if predictions.ndim == 3 else predictions[free] + 1
    return others


def _numbers(figures: Any) -> dict[str, float]:
    return {key: float(each) for key, each in figures.items() if isinstance(each, int | float | np.number)}


def _line(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}" if code else ""
