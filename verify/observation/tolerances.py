"""How close is equal: the largest difference over the reference's rms, and one table of what rounding explains."""

from collections.abc import Iterable

import torch
from torch import Tensor

from andon.verify.errors import CheckFailed

# What different orders of summation leave, as a share of the reference's rms.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}


def distance(actual: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the reference's rms, taken in float64; 0.0 means equal, NaN never does.

    Equal infinities are equal: logits of ids that are not words are often minus infinity.
    """
    if actual.numel() == 0:
        return 0.0
    actual, reference = actual.detach().double(), reference.detach().double()
    difference = (actual - reference).masked_fill(actual == reference, 0.0).abs().max()
    return float(difference / reference[reference.isfinite()].square().mean().sqrt().clamp_min(1e-300))


def norm_of(tensors: Iterable[Tensor]) -> float:
    """The 2-norm of all tensors together, taken in float64."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def rms(tensor: Tensor) -> float:
    """The root of the mean square of all entries, taken in float64; 0.0 where there are none."""
    return float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0


def rounding(*tensors: Tensor) -> float:
    """The tolerance for tensors of these dtypes: the widest of theirs."""
    return max(ROUNDING.get(tensor.dtype, 0.0) for tensor in tensors)


def require_close(actual: Tensor, reference: Tensor, tolerance: float, what: str) -> None:
    """Fail where two tensors differ by more than `tolerance`; `what` says which, as in "row 2 alone".

    Raises:
        CheckFailed: they do; the message has the distance and the tolerance.
    """
    apart = distance(actual, reference)
    if not apart <= tolerance:
        raise CheckFailed(f"{what}: {apart:.2g} of their rms apart, and rounding explains {tolerance:.0e}")
