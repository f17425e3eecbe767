"""A loss of a batch's mean, where a mean of the rows' losses is meant.

Legend: B batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import NotApplicable, Unusual

ROWS = 4  # of a batch, at least
CLOSE = 1e-5  # of a gradient: rows that are alike
APART = 1e-2  # of the size of numbers: rows that differ


def check_mean_first(captured: Captured) -> None:
    """Each row of a batch has a gradient of its own error, not one of the mean of all rows.

    Asked where a model returns numbers with a row for each of a batch's, and the loss is made of them and of constant
    numbers of the same shape that no model made, where both differ from row to row. Found where the loss's gradient is
    the same for all rows, and moves with what the model returned: that of a critic's mean is one number, and right.

    Silent because the loss falls, as errors of different rows cancel: the mean is learned, and no row.

    Look for a mean over the rows that is taken before a square, a norm or an absolute value.

    Yellow alone: whoever matches moments of two sets does so.
    """
    asked = list(_compared(captured))
    if not asked:
        raise NotApplicable(
            f"a loss of what a model returns for {ROWS} rows or more, and of numbers of the same shape beside it"
        )
    for output in asked:
        if _is_alike_and_moves(captured.loss, output):
            raise Unusual(
                f"the loss's gradient for what the model returned {tuple(output.shape)} is the same in all "
                f"{len(output)} rows, though rows and what they are compared with differ: their mean is taken first, "
                "and errors of different rows cancel"
            )


def _compared(captured: Captured) -> Iterator[Tensor]:
    """What modules returned that stands beside constant numbers of its shape, both with rows of their own."""
    passes = [entry for entry in captured.entries if entry.module is not None]
    made = {id(each) for entry in passes for each in entry.made()}
    beside = [each for entry in captured.entries if entry.module is None for each in entry.given()]
    shapes = {each.shape for each in beside if id(each) not in made and _is_constant(each) and _differs(each)}
    for entry in passes:
        for each in entry.made():
            floating = each.requires_grad and each.is_floating_point() and each.dim() > 0
            if floating and each.shape in shapes and _differs(each):
                yield each


def _is_constant(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.requires_grad


def _differs(tensor: Tensor) -> bool:
    """Whether its rows are several, and not alike."""
    if tensor.dim() == 0 or len(tensor) < ROWS or not tensor.numel():
        return False
    rows = tensor.detach().double()
    return bool((rows - rows.mean(0)).norm() > APART * rows.norm())


def _is_alike_and_moves(loss: Tensor, output: Tensor) -> bool:
    """Whether the gradient is one for all rows, not zero, and another one for other outputs."""
    (gradient,) = torch.autograd.grad(loss, [output], create_graph=True, allow_unused=True)
    if gradient is None or not gradient.any() or gradient.grad_fn is None:
        return False
    if bool((gradient - gradient[:1]).norm() > CLOSE * gradient.norm()):
        return False
    weights = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0)).to(gradient)
    (moves,) = torch.autograd.grad((gradient * weights).sum(), [output], retain_graph=True, allow_unused=True)
    return moves is not None and bool(moves.any())


QUESTIONS = (Question("run.mean_first", check_mean_first),)
