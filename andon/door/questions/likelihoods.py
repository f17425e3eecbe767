"""What a loss over classes is given: scores, or logarithms of probabilities, and not probabilities themselves."""

import torch
from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

TAKES = {"nll_loss": "logarithms of probabilities", "cross_entropy": "scores before a softmax"}
CLOSE = 1e-3  # to 1, of a row of probabilities in float16
FAR = 0.1  # from 0, of the logarithm of such a row's sum: what is that far is no row of log probabilities


def check_classes(captured: Captured) -> None:
    """A loss over classes is given what it takes: nll_loss logarithms of probabilities, cross_entropy scores.

    Asked of each call of these that the loss depends on, within a model or outside.

    Silent because each of them lowers its number when the right class rises; it only cannot become what it says.

    Look for a softmax, where log_softmax or none is meant.

    Yellow where nll_loss is given what are neither: whoever picks scores by it does so.
    """
    calls = [each for each in captured.classes if _is_learned_from(captured.loss, each[1])]
    if not calls:
        raise NotApplicable("a call of nll_loss or cross_entropy in the loss")
    for name, given in calls:
        rows = given.detach().double().movedim(1, -1) if given.dim() > 1 else given.detach().double()
        if rows.shape[-1] < 2 or not rows.numel():
            continue
        said = f"{name}, which takes {TAKES[name]}, is given {tuple(given.shape)} numbers"
        if _are_probabilities(rows):
            raise CheckFailed(f"{said} from 0 to 1, and each row of classes sums to 1: they are probabilities")
        away = rows.logsumexp(-1).abs()
        if name == "nll_loss" and bool((away > FAR).all()):
            raise Unusual(f"{said} whose exponentials sum, over the classes, to {float(rows.exp().sum(-1).mean()):.4g}")


def _is_learned_from(loss: Tensor, given: Tensor) -> bool:
    """Whether a gradient goes from the loss to what a call is given; a figure that is only printed has none."""
    if not given.requires_grad:
        return False
    return torch.autograd.grad(loss, given, retain_graph=True, allow_unused=True)[0] is not None


def _are_probabilities(rows: Tensor) -> bool:
    within = bool(((rows >= 0) & (rows <= 1)).all())
    return within and bool(((rows.sum(-1) - 1).abs() < CLOSE).all())


QUESTIONS = (Question("run.classes", check_classes),)
