"""The velocity that a flow's model learns: whether it points the way that its input goes with time.

Legend: B batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from andon.door.differences import compared_with
from andon.door.levels import levels_given
from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import NotApplicable, Unusual

CLOSE = 1e-4  # of a difference in float32


def check_velocity(captured: Captured) -> None:
    """A velocity that a model learns is that of its input, as time goes on, and not the opposite.

    Asked where what the model returns is compared with a target, and its input is another part of the loss plus a
    constant times the number that it is given for each row times that target, to rounding: time and a velocity.

    Silent because a field that points backward is learned as well as any; samples alone show it.

    Look at which end of the way time begins at: `(1 - t) * noise + t * data` goes with `data - noise`.

    Yellow alone: whoever goes against time as samples are drawn may learn the opposite.
    """
    factors = list(_factors(captured))
    if not factors:
        raise NotApplicable("an input that is a start plus time and a velocity that the model is to tell")
    if max(factors) < 0:
        raise Unusual(
            f"the model's input moves by {min(factors):.3g} times the target as the number given for each row grows by "
            "1: it learns the opposite of the velocity of its input"
        )


def _factors(captured: Captured) -> Iterator[float]:
    """By what the target moves the input with time, for each way in which the three fit."""
    targets = list(compared_with(captured))
    for entry in (each for each in captured.entries if each.module is not None):
        for _, time in levels_given(entry):
            for x in (each for each in entry.given() if each.is_floating_point() and each.numel() > len(each)):
                yield from _fits(x.detach(), time.detach(), targets, captured)


def _fits(x: Tensor, time: Tensor, targets: list[Tensor], captured: Captured) -> Iterator[float]:
    times = time.double().reshape(-1, *[1] * (x.dim() - 1))
    starts = [each.detach() for each in captured.parts.values() if each.shape == x.shape and each is not x]
    for target in (each for each in targets if each.shape == x.shape):
        way = times * target.double()
        for start in (each for each in starts if not torch.equal(each, x)):
            gone = x.double() - start.double()
            factor = float((gone * way).sum() / way.square().sum().clamp_min(1e-30))
            if factor and float((gone - factor * way).norm()) < CLOSE * float(gone.norm()):
                yield factor


QUESTIONS = (Question("run.velocity", check_velocity),)
