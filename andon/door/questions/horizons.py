"""Windows of a series: what is to be predicted begins after what is given.

Legend: B batch, T time given, H time to predict, F features.
"""

import torch
from torch import Tensor

from andon.door.differences import taken_alone
from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import NotApplicable, Unusual

FEWEST = 4  # rows, and steps of time


def check_horizon(captured: Captured) -> None:
    """The first values that are to be predicted are not the last that are given.

    Asked of numbers (B, T) or (B, T, F) that a module is given, and of others (B, H) or (B, H, F) that the loss alone
    takes, where H is not T: rows that are shifted against each other by a place are predicted place by place.

    Silent because the loss is lower for it: one of the values is copied, and all others come a step too early.

    Look at where the window of the target begins.

    Yellow alone: a target may repeat the last known value, so that curves join.
    """
    alone = taken_alone(captured)
    pairs = [
        (name, target)
        for name in sorted(captured.parts.keys() - alone.keys())
        for target in sorted(alone)
        if _are_windows(captured.parts[name], captured.parts[target])
    ]
    if not pairs:
        raise NotApplicable("numbers over time that the model is given, and others that the loss alone takes")
    for name, target in pairs:
        count = _shared(captured.parts[name], captured.parts[target])
        if count:
            raise Unusual(
                f"the first {count} of {captured.parts[target].shape[1]} values of {target!r} in each row are the last "
                f"{count} that the model is given in {name!r}"
            )


def _are_windows(given: Tensor, target: Tensor) -> bool:
    floats = given.is_floating_point() and target.is_floating_point()
    shapes = given.dim() in (2, 3) and target.dim() in (2, 3) and len(given) == len(target) >= FEWEST
    return floats and shapes and given.shape[1] >= FEWEST and 1 < target.shape[1] != given.shape[1]


def _shared(given: Tensor, target: Tensor) -> int:
    """How many values at a target's beginning are those at the end of what is given, in all rows, and none alike."""
    first = target if target.dim() == 2 else target[..., 0]
    features = [given] if given.dim() == 2 else list(given.unbind(-1))
    for count in range(1, min(given.shape[1], target.shape[1])):
        start = first[:, :count]
        if len(start.unique()) == start.numel() and any(torch.equal(each[:, -count:], start) for each in features):
            return count
    return 0


QUESTIONS = (Question("run.horizon", check_horizon),)
