"""Parameters that no gradient reaches: does the loss read them at all?"""

from copy import deepcopy

import torch
from torch import Tensor, nn

from andon.door.questions.question import parts_of
from andon.verify.access.calls import seeded
from andon.verify.capturing.micro_batch import Captured

MOVED = 0.5  # of what is added to each of them


def reads_nothing_ungraded(captured: Captured) -> bool:
    """Whether some parameters get no gradient and, moved all at once, leave the loss as it is, bit for bit."""
    modules = [deepcopy(each).eval() for each in captured.before]
    before = _loss(captured, modules)
    if not before.requires_grad:
        return False
    learning = [p for module in modules for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(before, learning, allow_unused=True)
    without = [p for p, gradient in zip(learning, gradients, strict=True) if gradient is None]
    with torch.no_grad():
        for parameter in without:
            parameter.add_(MOVED)
        return bool(without) and torch.equal(before, _loss(captured, modules))


def _loss(captured: Captured, modules: list[nn.Module]) -> Tensor:
    with seeded():
        return captured.values(parts_of(captured), modules)[id(captured.loss)]
