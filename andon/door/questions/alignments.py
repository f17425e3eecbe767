"""Whether what ctc_loss is given can be aligned at all, and whether it is all of a row.

Legend: B batch, T frames.
"""

from typing import Any

import torch
from torch import Tensor

from andon.door.questions.likelihoods import is_learned_from
from andon.door.questions.question import Question, again
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Likelihood
from andon.verify.errors import NotApplicable, Unusual

MOST_OF_IT = 0.75  # convolutions and strides leave a few frames at the end
FEWEST = 8  # frames
LONG = 0.75  # of the longest row: of short ones a few places more are read than are aligned


def check_impossible(captured: Captured) -> None:
    """A row that is given to ctc_loss has frames for all of its targets.

    A row needs as many as it has targets, and one more, a blank, between two alike. Asked of each call of ctc_loss that
    the loss depends on.

    Silent because `zero_infinity` makes the loss of such a row 0, and its gradient: it counts as learned.

    Look at how lengths of inputs follow from what the model's convolutions leave of them.

    Yellow alone: whoever has a few rows that are too short, and wants them left out, does so.
    """
    for each in _calls(captured):
        needs, frames = _needed(each)
        short = needs > frames
        if bool(short.any()):
            first = int(short.nonzero()[0])
            raise Unusual(
                f"{int(short.sum())} of {len(short)} rows of ctc_loss have fewer frames than their targets need: row "
                f"{first} is said to have {int(frames[first])}, and needs {int(needs[first])}; its loss is infinite, "
                "or 0 with zero_infinity"
            )


def check_read(captured: Captured) -> None:
    """What is aligned by ctc_loss is read to its end, in one of the longest rows at least.

    Asked where the loss depends on ctc_loss, of the numbers that a model is given, in eval mode: how far a row goes is
    where it ceases to be constant, and how far it is read is where its gradient ceases.

    Silent because the targets fit into the first part of a row as well, and the model learns to hurry.

    Look at how lengths of inputs follow from what the model's convolutions leave of them.

    Yellow alone.
    """
    _calls(captured)
    parts = {name: part for name, part in captured.parts.items() if part.is_floating_point() and part.dim() > 1}
    shares = {(name, axis): share for name in parts for axis, share in _shares(captured, name)}
    if not shares:
        raise NotApplicable("a batch of numbers in rows, of which ctc_loss aligns what a model makes")
    for (name, axis), share in shares.items():
        if share < MOST_OF_IT:
            raise Unusual(
                f"of no long row of {name!r} {tuple(parts[name].shape)} more than the first {share:.0%} along axis "
                f"{axis} have a gradient of the loss, though the numbers go on"
            )


def _shares(captured: Captured, name: str) -> list[tuple[int, float]]:
    """How far rows (B, ...) are read, of how far they go, in that of the long ones that is read furthest: by axis."""
    given = captured.parts[name].detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = again(captured, {name: given})[id(captured.loss)]
        gradient = torch.autograd.grad(loss, given, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        return []
    found = []
    for axis in range(1, given.dim()):
        rows, grads = (each.detach().movedim(axis, 1).reshape(*_sizes(each, axis), -1) for each in (given, gradient))
        goes, read = _last((rows != rows[:, -1:]).any(2)), _last((grads != 0).any(2))
        kept = (read > 0) & (goes >= FEWEST) & (goes >= LONG * goes.max())
        if bool(kept.any()):
            found.append((axis, float((read / goes)[kept].max())))
    return found


def _sizes(rows: Tensor, axis: int) -> tuple[int, int]:
    return len(rows), rows.shape[axis]


def _last(marks: Tensor) -> Tensor:
    """How many of (B, T) come up to the last that is marked."""
    return (marks * torch.arange(1, marks.shape[1] + 1)).amax(1)


def _calls(captured: Captured) -> list[Likelihood]:
    """Those of ctc_loss that the loss depends on.

    Raises:
        NotApplicable: there are none.
    """
    calls = [each for each in captured.likelihoods if each.name == "ctc_loss" and is_learned_from(captured.loss, each)]
    if not calls:
        raise NotApplicable("a call of ctc_loss")
    return calls


def _needed(call: Likelihood) -> tuple[Tensor, Tensor]:
    """The frames (B,) that targets need, and those that rows are said to have."""
    arguments = call.arguments
    frames, sizes = (_lengths(arguments[name]) for name in ("input_lengths", "target_lengths"))
    targets, counts = arguments["targets"].cpu(), sizes.tolist()
    padded = targets.dim() > 1
    rows = [row[:n] for row, n in zip(targets, counts, strict=True)] if padded else targets.split(counts)
    repeats = torch.tensor([int((row[1:] == row[:-1]).sum()) for row in rows])
    return sizes + repeats, frames


def _lengths(given: Any) -> Tensor:
    return torch.as_tensor(given).reshape(-1).cpu()


QUESTIONS = (Question("run.impossible", check_impossible), Question("run.read", check_read))
