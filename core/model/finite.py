"""Whether tensors are finite, in one pass over each, with nothing allocated."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first tensor that holds NaN or inf; empty where all are finite."""
    return next((name for name, tensor in tensors if tensor.numel() and not _is_finite(tensor)), "")


def _is_finite(tensor: Tensor) -> bool:
    return math.isfinite(torch.linalg.vector_norm(tensor.detach(), math.inf))
