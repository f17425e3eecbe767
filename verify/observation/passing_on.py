"""Whether blocks pass on what they are given.

Legend: B batch, T time, D dim.
"""

from torch import Tensor, nn

from andon.verify.errors import NotApplicable
from andon.verify.observation.blocks import Call
from andon.verify.observation.tolerances import distance

UNIT = 0.03  # of a normed output's rms around 1


def _ends(call: Call) -> tuple[Tensor, Tensor]:
    """What a block was given and what it returned.

    Raises:
        NotApplicable: they cannot be compared.
    """
    given, result = call.states_BTD.double(), call.result_BTD.double()
    if given.shape != result.shape or not bool(result.isfinite().all()):
        raise NotApplicable("blocks that return states of the shape they are given, and finite ones")
    return given, result


def change_of(call: Call, whole: Call, limit: float) -> str:
    """How a block without matrices changes its input; "" where it does not, or by a norm that ends the whole one, too.

    A constant part of it is passed on by blocks that average their branches.
    """
    given, result = _ends(call)
    ratio = float((result * given).sum() / given.square().sum().clamp_min(1e-300))
    off = distance(result, given)
    is_part = 0 < ratio <= 1 and distance(result, ratio * given) <= limit
    if off <= limit or is_part or (_is_normed(given, result) and _is_unit(whole.result_BTD.double())):
        return ""
    return f"{ratio:.4g} times its input ({off:.2g} of its rms apart)"


def _is_unit(result: Tensor) -> bool:
    """Whether each row has rms 1, as after a norm, or 0."""
    size = result.square().mean(-1).sqrt()
    return bool((((size - 1).abs() < UNIT) | (size == 0)).all())


def _is_normed(given: Tensor, result: Tensor) -> bool:
    """Whether each result is its input divided by its own size, as after a last norm, or nothing at all."""
    centered = given - given.mean(-1, keepdim=True)
    along = max(float(nn.functional.cosine_similarity(result, each, dim=-1).min()) for each in (given, centered))
    return _is_unit(result) and along > 0.95
