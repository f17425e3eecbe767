"""Which document each token of a batch is in: by a part that numbers them, or by positions that begin anew.

Legend: B batch, T time.
"""

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.batches import other_tokens, real_in, rows_of
from andon.verify.access.calls import new_batch
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.logits import logits_of
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, fields, is_index, replaced
from andon.verify.access.targets import targets_of, tokens_of, with_tokens
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject

FAINT = 1e-5  # of logits: what moves less has not moved
LONG = 2  # tokens of a document, on average, at least
_NUMBERS = WeakIdKeyDictionary()  # the part by whose numbers a subject's attention is cut
_CUT = WeakIdKeyDictionary()  # whether a subject's attention is cut where its positions begin anew


def documents_in(subject: Subject, batch: Batch) -> Tensor:
    """(B, T): the number of each token's document, from the batch's documents or from positions that start anew.

    Positions that begin anew after the same number each time may be those of a table that ends: they say something of
    documents only where no target is behind such a place, or where what stands before it is seen to move nothing after.
    """
    tokens_BT, key = tokens_of(subject, batch), documents_key(subject, batch)
    if key is not None and fields(batch)[key].shape == tokens_BT.shape:
        return fields(batch)[key]
    if "positions" in find(subject, batch):
        positions_BT = part(subject, batch, "positions")
        if positions_BT.shape == tokens_BT.shape:
            starts_BT = torch.zeros_like(tokens_BT)
            starts_BT[:, 1:] = (positions_BT[:, 1:] == 0) & real_in(subject, batch)[:, 1:]
            borders_BT = starts_BT.bool() & ~_ends(positions_BT)
            if not _wrap(positions_BT, borders_BT) or _are_borders(subject, batch, borders_BT):
                return starts_BT.cumsum(1)
    return torch.zeros_like(tokens_BT)


def documents_key(subject: Subject, batch: Batch) -> str | int | None:
    """The part that numbers documents: by its name, by positions that begin with them, or as attention is cut there."""
    found = find(subject, batch)
    if "documents" in found:
        return found["documents"]
    if subject not in _NUMBERS:
        _NUMBERS[subject] = None  # what is asked of it on the way
        _NUMBERS[subject] = _cutting(subject)
    return _NUMBERS[subject] if _NUMBERS[subject] in fields(batch) else None


def one_document(subject: Subject, batch: Batch) -> Batch:
    """The batch with one document per row, and no padding."""
    tokens_BT, found = tokens_of(subject, batch), find(subject, batch)
    key, changes = documents_key(subject, batch), {}
    if key is not None:
        changes[key] = torch.zeros_like(fields(batch)[key])
    if "positions" in found and _start_anew(subject, batch):
        changes[found["positions"]] = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
    if "mask" in found:
        changes[found["mask"]] = torch.ones_like(part(subject, batch, "mask"))
    return replaced(batch, changes) if changes else batch


def cuts(subject: Subject, batch: Batch, numbers_BT: Tensor) -> bool:
    """Whether what stands before one of a row's runs moves no logits from there on, and its own first tokens do."""
    row = max(range(len(numbers_BT)), key=lambda each: len(numbers_BT[each].unique_consecutive()))
    sizes = numbers_BT[row].unique_consecutive(return_counts=True)[1].tolist()
    begins = [sum(sizes[:place]) for place in range(len(sizes))]
    inner = [(begin, size) for begin, size in zip(begins, sizes, strict=True) if begin and size > 1]
    if not inner:
        return False
    begin, size = max(inner, key=lambda each: each[1])
    try:
        before = _moved(subject, batch, row, slice(0, begin))
        own = _moved(subject, batch, row, slice(begin, begin + size - 1))
    except NotApplicable:
        return False
    return not bool(before[begin : begin + size].any()) and bool(own[begin + size - 1])


def _start_anew(subject: Subject, batch: Batch) -> bool:
    """Whether the batch's positions (B, T) are those of several documents, or of rows with padding."""
    several = bool(documents_in(subject, batch).any()) or not bool(real_in(subject, batch).all())
    return several and part(subject, batch, "positions").shape == tokens_of(subject, batch).shape


def _ends(positions_BT: Tensor) -> Tensor:
    """(B, T): the zeros that a row ends with, where it has several: those of padding."""
    zeros_BT = (positions_BT == 0).flip(1).cummin(1).values.flip(1)
    return zeros_BT & (zeros_BT.sum(1, keepdim=True) > 1)


def _wrap(positions_BT: Tensor, borders_BT: Tensor) -> bool:
    """Whether positions begin anew after the largest number alone, as those of a table that ends do."""
    before_BT = positions_BT[:, :-1][borders_BT[:, 1:]]
    return bool((before_BT == positions_BT.max()).all())


def _are_borders(subject: Subject, batch: Batch, borders_BT: Tensor) -> bool:
    """Whether places where positions begin anew are seen to be borders: of targets, or of attention."""
    if not bool(borders_BT.any()):
        return False
    if _have_no_targets(subject, batch, borders_BT):
        return True
    if subject not in _CUT:
        _CUT[subject] = cuts(subject, batch, borders_BT.cumsum(1))
    return _CUT[subject]


def _have_no_targets(subject: Subject, batch: Batch, borders_BT: Tensor) -> bool:
    """Whether none of the first tokens is a target, of which others are."""
    try:
        counted_BT = targets_of(subject, batch) != IGNORE
    except NotApplicable:
        return False
    before_BT = borders_BT[:, 1:]
    counted_BT = counted_BT[:, : before_BT.shape[1]]
    return bool(counted_BT[~before_BT].any()) and not bool(counted_BT[before_BT].any())


def _cutting(subject: Subject) -> str | int | None:
    """The part of whole numbers that come in runs, between which attention is seen to be cut; None of several."""
    batch = new_batch(subject)
    try:
        tokens_BT = tokens_of(subject, batch)
    except NotApplicable:
        return None
    taken = find(subject, batch).values()
    parts = {key: value for key, value in fields(batch).items() if key not in taken and isinstance(value, Tensor)}
    alike = {key: value for key, value in parts.items() if is_index(value) and value.shape == tokens_BT.shape}
    found = [key for key, value in alike.items() if _are_runs(value) and cuts(subject, batch, value)]
    return found[0] if len(found) == 1 else None


def _are_runs(numbers_BT: Tensor) -> bool:
    """Whether rows are runs of numbers that do not come again, several in some."""
    runs = [len(row.unique_consecutive()) for row in numbers_BT]
    once = all(count == len(row.unique()) for count, row in zip(runs, numbers_BT, strict=True))
    return once and max(runs) > 1 and LONG * sum(runs) <= numbers_BT.numel()


def _moved(subject: Subject, batch: Batch, row: int, where: slice) -> Tensor:
    """(T,): where other tokens at some places of a row move its logits."""
    one = rows_of(subject, batch, [row])
    tokens, model = tokens_of(subject, one), perturbed_model(subject)
    other = tokens.clone()
    other[:, where] = other_tokens(tokens)[:, where]
    with torch.no_grad():
        here, there = (logits_of(subject, model, each)[0] for each in (one, with_tokens(subject, one, other)))
    return (here - there).abs().nan_to_num(0.0).amax(-1) > FAINT * float(here.double().square().mean().sqrt())
