"""A loss that is one number, whatever the weights are."""

from copy import deepcopy

import torch

from andon.door.questions.question import Question, again
from andon.verify.access.calls import seeded
from andon.verify.capturing.micro_batch import Captured
from andon.verify.errors import CheckFailed, NotApplicable

MOVED = 0.1  # of a weight's size
ROUNDING = 1e-6
SEEDS = (1, 2)
RATIOS = ("exp", "exp_", "expm1", "div", "__truediv__", "__rtruediv__", "true_divide", "div_", "sub_")


def check_constant(captured: Captured) -> None:
    """A loss changes with the weights that it is to train.

    Asked of the captured batch, in eval mode, with all weights moved by a tenth, twice. Not where exponentials or
    quotients are taken outside of the model: the ratio of a policy to itself is 1, and has a gradient that is meant.

    Silent because there is a gradient, of one of two terms that are always the same: it never comes to rest.

    Look at what is compared with the model: a reference that is the model itself, and no copy of it.
    """
    if not captured.loss.requires_grad or any(e.name in RATIOS and _weighs(captured, e) for e in captured.entries):
        raise NotApplicable("a loss without quotients and exponentials of what the model returns")
    losses = [_moved_loss(captured, seed) for seed in SEEDS]
    with torch.no_grad():
        due = float(again(captured)[id(captured.loss)])
    if all(abs(each - due) <= ROUNDING * max(1.0, abs(due)) for each in losses):
        raise CheckFailed(
            f"the loss is {due:.6g} in eval mode, and with all weights moved by a tenth, twice, it still is: what the "
            "model returns cancels in it"
        )


def _weighs(captured: Captured, entry: object) -> bool:
    """Whether a call is given what a module made."""
    made: set[int] = set()
    for each in captured.entries:
        given = any(id(tensor) in made for tensor in each.given())
        if each is entry:
            return given
        if each.module is not None or given:
            made |= {id(tensor) for tensor in each.made()}
    return False


def _moved_loss(captured: Captured, seed: int) -> float:
    """Of weights that were moved at random."""
    modules = [deepcopy(each).eval() for each in captured.before]
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad(), seeded():
        for module in modules:
            for p in module.parameters():
                rms = p.square().mean().sqrt() if p.is_floating_point() else 0
                p.add_(MOVED * (rms + MOVED) * torch.randn(p.shape, generator=noise).to(p))
        batch = {key: value.detach().clone() for key, value in captured.parts.items()}
        return float(captured.values(batch, modules)[id(captured.loss)])


QUESTIONS = (Question("run.constant", check_constant),)
