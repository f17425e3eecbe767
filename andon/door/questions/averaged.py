"""A loss of a batch's mean, where a mean of the rows' losses is meant.

Legend: B batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import replayed
from andon.verify.errors import NotApplicable, Unusual

ROWS = 4  # of a batch, at least
CLOSE = 1e-5  # of a gradient: rows that are alike
APART = 1e-2  # of the size of numbers: rows that differ


def check_mean_first(captured: Captured) -> None:
    """Each row of a batch has a gradient of its own error, not one of the mean of all rows.

    Asked where a model returns numbers with a row for each of a batch's, and the loss is made of them and of constant
    numbers of the same shape that no model made, where both differ from row to row. Found where the loss's gradient is
    the same for all rows, and none where the model returns these constant numbers: that of a critic's mean stays, as
    does that of a molecule's energy, the sum of what is returned for its atoms.

    Silent because the loss falls, as errors of different rows cancel: the mean is learned, and no row.

    Look for a mean over the rows that is taken before a square, a norm or an absolute value.

    Yellow alone: whoever matches moments of two sets does so.
    """
    asked = list(_compared(captured))
    if not asked:
        raise NotApplicable(
            f"a loss of what a model returns for {ROWS} rows or more, and of numbers of the same shape beside it"
        )
    for output, constants in asked:
        gradient = _gradient(captured.loss, output)
        if _is_alike(gradient) and any(_ends_at(captured, output, each, gradient) for each in constants):
            raise Unusual(
                f"the loss's gradient for what the model returned {tuple(output.shape)} is the same in all "
                f"{len(output)} rows, though rows and what they are compared with differ: their mean is taken first, "
                "and errors of different rows cancel"
            )


def _compared(captured: Captured) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """What modules returned, and constant numbers of its shape that stand beside it, both with rows of their own."""
    passes = [entry for entry in captured.entries if entry.module is not None]
    made = {id(each) for entry in passes for each in entry.made()}
    given = [each for entry in captured.entries if entry.module is None for each in entry.given()]
    beside = [each for each in given if id(each) not in made and _is_constant(each) and _differs(each)]
    for output in (each for entry in passes for each in entry.made()):
        constants = [each for each in beside if each.shape == output.shape]
        if constants and output.requires_grad and _differs(output):
            yield output, constants


def _is_constant(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.requires_grad


def _differs(tensor: Tensor) -> bool:
    """Whether its rows are several, and not alike."""
    if tensor.dim() == 0 or len(tensor) < ROWS or not tensor.numel():
        return False
    rows = tensor.detach().double()
    return bool((rows - rows.mean(0)).norm() > APART * rows.norm())


def _gradient(loss: Tensor, output: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, [output], retain_graph=True, allow_unused=True)
    return torch.zeros_like(output) if gradient is None else gradient.nan_to_num(0.0)


def _is_alike(gradient: Tensor) -> bool:
    """Whether it is one for all rows, and not zero."""
    return bool(gradient.any()) and bool((gradient - gradient[:1]).norm() <= CLOSE * gradient.norm())


def _ends_at(captured: Captured, output: Tensor, constant: Tensor, gradient: Tensor) -> bool:
    """Whether there is no gradient where the model returns this."""
    other = constant.detach().to(output).clone().requires_grad_()
    with torch.enable_grad():
        loss = _loss_of(captured, output, other)
    return loss.requires_grad and bool(_gradient(loss, other).norm() <= APART * gradient.norm())


def _loss_of(captured: Captured, output: Tensor, other: Tensor) -> Tensor:
    """The loss with another output, and all else as it was recorded: what does not follow from it is not drawn anew."""
    follows, moved = [], {id(output)}
    for entry in captured.entries:
        if entry.module is None and any(id(each) in moved for each in entry.given()):
            follows.append(entry)
            moved |= {id(each) for each in entry.made()}
    return replayed(follows, {id(output): other}, {})[id(captured.loss)]


QUESTIONS = (Question("run.mean_first", check_mean_first),)
