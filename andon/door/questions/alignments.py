"""Whether what ctc_loss is given can be aligned at all.

Legend: B batch, T frames.
"""

from typing import Any

import torch
from torch import Tensor

from andon.door.questions.likelihoods import is_learned_from
from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Likelihood
from andon.verify.errors import NotApplicable, Unusual


def check_impossible(captured: Captured) -> None:
    """A row that is given to ctc_loss has frames for all of its targets.

    A row needs as many as it has targets, and one more, a blank, between two alike. Asked of each call of ctc_loss that
    the loss depends on.

    Silent because `zero_infinity` makes the loss of such a row 0, and its gradient: it counts as learned.

    Look at how lengths of inputs follow from what the model's convolutions leave of them.

    Yellow alone: whoever has a few rows that are too short, and wants them left out, does so.
    """
    calls = [each for each in captured.likelihoods if each.name == "ctc_loss" and is_learned_from(captured.loss, each)]
    if not calls:
        raise NotApplicable("a call of ctc_loss")
    for each in calls:
        needs, frames = _needed(each)
        short = needs > frames
        if bool(short.any()):
            first = int(short.nonzero()[0])
            raise Unusual(
                f"{int(short.sum())} of {len(short)} rows of ctc_loss have fewer frames than their targets need: row "
                f"{first} is said to have {int(frames[first])}, and needs {int(needs[first])}; its loss is infinite, "
                "or 0 with zero_infinity"
            )


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


QUESTIONS = (Question("run.impossible", check_impossible),)
