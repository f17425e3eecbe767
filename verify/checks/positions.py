"""Where a token stands: position encodings, by the relations that they must keep.

Legend: B batch, T time, D dim.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from andon.verify.access.batches import first_positions, other_tokens, rows_of, tensors_in
from andon.verify.access.calls import new_batch, new_model
from andon.verify.access.documents import one_document
from andon.verify.access.larger_weights import perturbed_model, rescale
from andon.verify.access.parts import find, part
from andon.verify.access.roles import replaced
from andon.verify.access.targets import predicts_next, tokens_of, with_tokens
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, left_out_by
from andon.verify.observation.blocks import Call, blocks_of, call_again, calls, masks_at
from andon.verify.observation.half_precision import is_wide, low_dtype
from andon.verify.observation.perturb import logits_eval, without_autocast
from andon.verify.observation.tolerances import ROUNDING, distance
from andon.verify.subject import Batch, Subject

PRIMES = (61, 53, 47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7)  # lengths that no other size is
COUNT = 5  # positions that are compared
RELATIVE = 3e-4  # of the states that a block adds; angles in float32 at positions below 61
ORDER = 1e-6
FAR = 512
EARLY = 16
GROWTH = 2.0  # of the rounding error from early to late positions; attention's averages make it fall


def check_shift(subject: Subject) -> None:
    """A block depends on distances between positions only: the same states, some positions later, give the same.

    Silent because a model can learn with any function of positions; it fails at lengths and places not trained on.

    Look at the sign and layout of rotations (halves or pairs), at whether queries and keys are rotated alike, and at
    positions that wrap, restart or are rounded.

    Example:
        # wrong: without the minus sign this is not a rotation
        def rotate_half(x):
            x1, x2 = x.chunk(2, dim=-1)
            return torch.cat((x2, x1), dim=-1)

        # right
        def rotate_half(x):
            x1, x2 = x.chunk(2, dim=-1)
            return torch.cat((-x2, x1), dim=-1)

    Reference: Su et al. 2021, arXiv:2104.09864, section 3.
    """
    model, batch, time = _single_documents(subject, perturbed_model(subject))
    block = blocks_of(model)[0]
    call = _first_call(subject, model, block, batch)
    _require_positions_alone(subject, model, block, batch, call)
    states = call.states_BTD[:, :COUNT]
    base = call_again(block, call, states, 0, time)
    masks = masks_at(call, 0, COUNT, time)
    for first in range(1, time - COUNT + 1):
        if not all(map(torch.equal, masks, masks_at(call, first, COUNT, time))):
            raise NotApplicable("a row without padding: some positions are hidden from a block")
        moved = call_again(block, call, states, first, time)
        _require_mask(subject, block, call, states, moved, first, time)
        apart = distance(moved - states, base - states)
        if not apart <= max(RELATIVE, ROUNDING.get(states.dtype, 0.0)):
            if not torch.equal(*(_reached(block, call, states, place, time) for place in (0, first))):
                raise NotApplicable("a row without padding: some positions are hidden from a block")
            raise CheckFailed(
                f"what a block adds to {COUNT} states at positions 0 to {COUNT - 1} and {first} to {first + COUNT - 1} "
                f"is {apart:.2g} of its rms apart; rounding explains {RELATIVE:.0e}"
            )


def check_average(subject: Subject) -> None:
    """Attention is an average: where several positions hold the same state, a block adds the same to each of them.

    Silent because a model can learn with any other weighting; its outputs then depend on how many tokens could be seen.

    Look at masks that multiply after the softmax, at a softmax over masked or empty places, and at its divisor.

    Example:
        # wrong: masked after the softmax, the weights of a row no longer add up to 1
        weights = (q @ k.transpose(-2, -1) / math.sqrt(head_dim)).softmax(-1)
        out = (weights * causal_mask) @ v

        # right
        scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
        weights = scores.masked_fill(~causal_mask, float("-inf")).softmax(-1)
        out = weights @ v

    Reference: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.
    """
    if subject.recurrent:
        raise left_out_by("recurrent", True, "a model whose first block averages, where a recurrence adds up")
    model, batch, time = _single_documents(subject, perturbed_model(subject))
    block = blocks_of(model)[0]
    if any("sink" in name for name, _ in block.named_parameters()):
        raise NotApplicable("attention without sinks, to which some of its weight goes")
    call = _first_call(subject, model, block, batch)
    _require_positions_alone(subject, model, block, batch, call)
    states = call.states_BTD[:, :1].repeat(1, COUNT, 1)
    added = call_again(block, call, states, 0, time) - states
    apart = distance(added[:, 1:], added[:, :1].expand_as(added[:, 1:]))
    if not apart <= max(RELATIVE, ROUNDING.get(states.dtype, 0.0)):
        raise CheckFailed(
            f"what a block adds to {COUNT} equal states differs between their positions by {apart:.2g} of its rms; "
            f"rounding explains {RELATIVE:.0e}"
        )


def check_order(subject: Subject) -> None:
    """The order of earlier tokens matters: swapping two of them changes what the first block outputs after them.

    Silent because a bag of words predicts well for a while, and the causal mask lets later layers guess the order.

    Asked of a first block in which positions see others.

    Yellow alone, as a model may be meant to have no positions but its causal mask.

    Look at whether positions reach queries and keys, or the embedding.

    Example:
        # wrong: the rotated queries and keys are not used
        q_rotated, k_rotated = apply_rotary_pos_emb(q, k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

        # right
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

    Reference: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    model, batch, _ = _single_documents(subject, perturbed_model(subject))
    block = blocks_of(model)[0]
    tokens_BT = tokens_of(subject, batch).clone()
    tokens_BT[:, 1] = other_tokens(tokens_BT)[:, 0].where(tokens_BT[:, 1] == tokens_BT[:, 0], tokens_BT[:, 1])
    exchanged_BT = tokens_BT.clone()
    exchanged_BT[:, [0, 1]] = tokens_BT[:, [1, 0]]
    others_BT = tokens_BT.clone()
    others_BT[:, :2] = other_tokens(tokens_BT)[:, :2]
    results = [
        _first_call(subject, model, block, with_tokens(subject, batch, each)).result_BTD[:, 2:]
        for each in (tokens_BT, exchanged_BT, others_BT)
    ]
    apart, moved = (distance(result, results[0]) for result in results[1:])
    if not moved > ORDER:
        raise NotApplicable("a first block in which positions see others")
    if not apart > ORDER:
        raise Unusual(
            f"exchanging tokens 0 and 1 changes the first block's output after them by {apart:.1e} of its rms, and "
            f"other tokens there by {moved:.1e}: positions have no part in it, which is right for a model without any"
        )


def check_precision(subject: Subject) -> None:
    """Rounding costs no more at late positions than at early ones: positions and angles are not in half precision.

    Where attention is sharp, more keys mean more error, whatever the positions are: rounding only the layers' outputs,
    in a float32 model, shows how much more.

    Silent because short sequences come out right; in bfloat16 positions above 256 become equal to their neighbors.

    Look at the dtype of positions, frequencies and angles, under autocast too.

    Example:
        # wrong: in a bfloat16 model positions and angles are rounded to 8 bits
        positions = torch.arange(T, device=x.device, dtype=x.dtype)
        angles = torch.outer(positions, self.inv_freq.to(x.dtype))

        # right
        positions = torch.arange(T, device=x.device, dtype=torch.float32)
        angles = torch.outer(positions, self.inv_freq.float())
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    Reference: huggingface/transformers#29285.
    """
    low = low_dtype(subject)
    model, exact = new_model(subject).eval(), new_model(subject).eval().float()
    rescale(model)
    with torch.no_grad():
        for target, source in zip(exact.parameters(), model.parameters(), strict=True):
            target.copy_(source)
    batch = _long(subject, model, new_batch(subject))
    context = torch.autocast(tokens_of(subject, batch).device.type, dtype=low, enabled=is_wide(model))
    with context:
        rounded = logits_eval(subject, model, batch)
    with without_autocast():
        reference = logits_eval(subject, exact, batch)
    time = reference.shape[1]
    early, late = _errors(rounded, reference)
    if late <= GROWTH * early:
        return
    with _rounding_outputs(exact, low), without_autocast():
        early_outputs, late_outputs = _errors(logits_eval(subject, exact, batch), reference)
    explained = GROWTH * max(1.0, late_outputs / max(early_outputs, 1e-300))
    if not late <= explained * early:
        raise CheckFailed(
            f"in {low} logits at positions {time - time // 4} to {time - 1} are {late:.2g} from float32's, and at "
            f"positions 2 to {EARLY - 1} {early:.2g}: {late / max(early, 1e-300):.1f} times as far; "
            f"rounding explains {explained:.2g}"
        )


def _single_documents(subject: Subject, model: nn.Module) -> tuple[nn.Module, Batch, int]:
    """The model, a batch of one document per row without padding, and its length: a prime that no other size is."""
    batch = one_document(subject, new_batch(subject))
    tokens_BT = tokens_of(subject, batch)
    sizes = {size for p in model.parameters() for size in p.shape}
    time = next((p for p in PRIMES if p <= tokens_BT.shape[1] and p not in sizes), None)
    if time is None:
        raise NotApplicable(f"batches of at least {PRIMES[-1]} positions")
    return model, first_positions(subject, rows_of(subject, batch, [0]), time), time


def _require_mask(
    subject: Subject, block: nn.Module, call: Call, states: Tensor, result: Tensor, first: int, time: int
) -> None:
    """Refuse a block that is not causal on a part of its arguments: they are not a mask of these positions."""
    if predicts_next(subject) and first == 1:
        other = torch.cat([states[:, :-1], states[:, -1:].flip(-1)], 1)
        if distance(call_again(block, call, other, first, time)[:, :-1], result[:, :-1]) > RELATIVE:
            raise NotApplicable("blocks whose arguments at a few positions are a mask of these")


def _reached(block: nn.Module, call: Call, states: Tensor, first: int, time: int) -> Tensor:
    """(n, n): whether a block's output for a state depends on another, of n that stand from `first` on."""
    before, seen = call_again(block, call, states, first, time), []
    for place in range(states.shape[1]):
        other = states.clone()
        other[:, place] = other[:, place].flip(-1)
        seen.append((call_again(block, call, other, first, time) - before).abs().amax((0, 2)) > 0)
    return torch.stack(seen)


def _first_call(subject: Subject, model: nn.Module, block: nn.Module, batch: Batch) -> Call:
    with calls([block]) as seen:
        logits_eval(subject, model, batch)
    shape = tokens_of(subject, batch).shape
    if not seen[block] or seen[block][0].states_BTD.shape[:2] != shape:
        raise NotApplicable("blocks that take and return states (B, T, D)")
    return seen[block][0]


def _require_positions_alone(subject: Subject, model: nn.Module, block: nn.Module, batch: Batch, call: Call) -> None:
    """Raise NotApplicable where a block is given more of its row than its states, such as what another part encodes."""
    others = [with_tokens(subject, batch, other_tokens(tokens_of(subject, batch)))]
    others += _row_beside(subject, tokens_of(subject, batch).shape[1])
    for each in others:
        again = _first_call(subject, model, block, each)
        pairs = zip(*(tensors_in((one.arguments, one.keywords)) for one in (call, again)), strict=False)
        if any(one is not call.states_BTD and _are_others(one, other) for one, other in pairs):
            raise NotApplicable("blocks that are given nothing of a token but its states and its position")


def _row_beside(subject: Subject, time: int) -> list[Batch]:
    """A second row of the batch, up to a length; none where there is none."""
    whole = one_document(subject, new_batch(subject))
    if len(tokens_of(subject, whole)) < 2:
        return []
    return [first_positions(subject, rows_of(subject, whole, [1]), time)]


def _are_others(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape differ, and are no masks."""
    masks = one.dtype == torch.bool or len(one.unique()) <= 2
    return one.shape == other.shape and not masks and not torch.equal(one, other)


def _long(subject: Subject, model: nn.Module, batch: Batch) -> Batch:
    """One row, its parts repeated to FAR positions where the model takes so many."""
    batch = one_document(subject, rows_of(subject, batch, [0]))
    tokens_BT = tokens_of(subject, batch)
    found = find(subject, batch)
    times = -(-FAR // tokens_BT.shape[1])
    longer = {key: part(subject, batch, role).repeat(1, times)[:, :FAR] for role, key in found.items()}
    if "positions" in found:
        longer[found["positions"]] = torch.arange(FAR, device=tokens_BT.device)[None]
    long = replaced(batch, longer)
    try:
        if bool(logits_eval(subject, model, long).isfinite().all()):
            return long
    except (RuntimeError, IndexError, ValueError, AssertionError):
        pass
    if tokens_BT.shape[1] < 4 * EARLY:
        raise NotApplicable(f"batches of at least {4 * EARLY} positions")
    return batch


def _errors(rounded: Tensor, reference: Tensor) -> tuple[float, float]:
    """How far the logits are apart at early positions, and in the last quarter."""
    error_T = (rounded.double() - reference.double()).square().mean((0, 2)).sqrt()
    return float(error_T[2:EARLY].mean()), float(error_T[-len(error_T) // 4 :].mean())


@contextmanager
def _rounding_outputs(model: nn.Module, dtype: torch.dtype) -> Generator[None]:
    """What layers with weights return is rounded to this dtype, and goes on in its own; positions have no weights."""

    def rounded(_module: nn.Module, _args: object, output: object) -> object:
        return output.to(dtype).to(output.dtype) if isinstance(output, Tensor) else output

    layers = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(rounded) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


CHECKS = (
    Check("positions.order", check_order),
    Check("positions.shift", check_shift),
    Check("positions.average", check_average),
    Check("positions.precision", check_precision, tier=2),
)
