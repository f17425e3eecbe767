"""How far apart two answers of a module are, and whether they can be close."""

import torch
from torch import Tensor, nn

from andon.verify.observation.tolerances import rms


def apart(one: Tensor, other: Tensor) -> float:
    """The difference's size, relative to that of the second."""
    return rms(one.double() - other.double()) / max(rms(other), 1e-12)


def is_half(module: nn.Module, answer: Tensor) -> bool:
    """Whether some of it is computed in less than single precision, or from rounded weights."""
    kinds = {answer.dtype} | {p.dtype for p in module.parameters()}
    return bool(kinds - {torch.float32, torch.float64}) or torch.is_autocast_enabled(answer.device.type)
