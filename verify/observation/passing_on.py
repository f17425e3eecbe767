"""Whether blocks pass on what they are given.

Legend: B batch, T time, D dim.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from andon.verify.access.larger_weights import rescale
from andon.verify.errors import NotApplicable
from andon.verify.observation.additions import Additions
from andon.verify.observation.answers import answer
from andon.verify.observation.blocks import Call, are_chained, called_with, calls
from andon.verify.observation.model_state import empty
from andon.verify.observation.tolerances import distance
from andon.verify.observation.uses import Uses
from andon.verify.subject import Batch, Subject

CODES = (torch.uint8, torch.int8)  # of quantized matrices
MORE = 3.0  # times the states that later blocks are given
UNIT = 0.03  # of a normed output's rms around 1


def calls_without_matrices(
    subject: Subject, model: nn.Module, blocks: list[nn.Module], batch: Batch
) -> dict[int, list[tuple[Call, Call]]]:
    """By index, calls of blocks that are to pass on what they get, without matrices, each beside its like with them.

    The model is left without them.

    Raises:
        NotApplicable: no block is seen to add or to attend, or none loses all its products with its matrices.
    """
    inside = nn.ModuleList(blocks)
    if any(tensor.dtype in CODES for tensor in inside.state_dict().values()):
        raise NotApplicable("blocks whose matrices are not quantized")
    rescale(inside, vectors=False)
    with calls(blocks) as live, Additions(blocks) as additions, Uses(inside) as uses:
        answer(subject, model, batch)
    if not are_chained(blocks, live):
        raise NotApplicable("blocks of which one is given what another returns")
    if not additions.residual:
        raise NotApplicable("blocks that add to what they are given")
    multiplied = uses.multiplied()
    empty(each for name, each in inside.named_parameters() if name in multiplied)
    with calls(blocks) as seen, Additions(blocks) as left:
        answer(subject, model, batch)
    judged = additions.residual - left.multiplying
    if not judged:
        raise NotApplicable("blocks whose products all vanish with their matrices, and finite ones")
    if any(len(seen[block]) != len(live[block]) for block in judged):
        raise NotApplicable("blocks that run as often without their matrices")
    return {
        index: list(zip(seen[block], live[block], strict=True)) for index, block in enumerate(blocks) if block in judged
    }


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
    return _is_unit(result) and any(_are_along(each, result) for each in _with_and_without_mean(given))


def norms_in_the_first_alone(blocks: list[nn.Module], found: Mapping[int, list[tuple[Call, Call]]]) -> bool:
    """Whether the first block norms what is embedded and adds to that, and later ones pass on larger states as well.

    What later blocks are given is normed already: a norm of it shows only where it is larger.
    """
    later = [(blocks[index], call) for index, pairs in found.items() if index for call, _ in pairs]
    return bool(later) and all(_is_norm_of_input(call) for call, _ in found[0]) and all(map(_passes_on_more, later))


def _passes_on_more(asked: tuple[nn.Module, Call]) -> bool:
    block, call = asked
    more = MORE * call.states_BTD
    result = called_with(block, call, more)
    return result is not None and distance(result.double(), more.double()) <= UNIT


def _is_norm_of_input(call: Call) -> bool:
    """Whether each result is its input divided by its own size and an epsilon, which is large beside small inputs."""
    given, result = _ends(call)
    return any(_are_along(each, result) and _has_epsilon(each, result) for each in _with_and_without_mean(given))


def _with_and_without_mean(given: Tensor) -> tuple[Tensor, Tensor]:
    return given, given - given.mean(-1, keepdim=True)


def _are_along(given: Tensor, result: Tensor) -> bool:
    return float(nn.functional.cosine_similarity(result, given, dim=-1).min()) > 0.95


def _has_epsilon(given: Tensor, result: Tensor) -> bool:
    """Whether size**2 + epsilon is what the square is divided by, with one epsilon for all rows."""
    size = given.square().mean(-1)
    divided = size / result.square().mean(-1)
    epsilon = divided - size
    return float(epsilon.max() - epsilon.min()) <= UNIT * float(divided.mean())
