"""A part of an optimizer's gradients, to see whether they are there, and what becomes of them before the step."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.optim import Optimizer

from andon.verify.observation.optimizers import tensors_of

ENTRIES = 1024  # of one gradient
MOST = 4  # gradients


def sample(optimizer: Optimizer) -> Tensor | None:
    """The first entries of its first gradients; None where there are none."""
    parts = [each.detach().reshape(-1)[:ENTRIES].cpu().double() for each in islice(_gradients(optimizer), MOST)]
    return torch.cat(parts) if parts else None


def _gradients(optimizer: Optimizer) -> Iterator[Tensor]:
    """Dense ones of this process: a look at a sharded one would be a message to the others."""
    for p in tensors_of(optimizer):
        if type(p.grad) is Tensor and p.grad.layout == torch.strided:
            yield p.grad


def scaled_by(before: Tensor | None, after: Tensor | None) -> float:
    """The factor from one sample to the other; nan where there is none that explains it."""
    if before is None or after is None or before.shape != after.shape or not bool(before.any()):
        return float("nan")
    factor = float((before @ after) / (before @ before))
    alike = float((after - factor * before).norm()) <= 1e-3 * float(after.norm())
    return factor if alike else float("nan")
