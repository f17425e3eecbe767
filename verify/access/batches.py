"""Other batches made of a subject's own: fewer rows, shorter, other tokens, and what a batch says of its positions.

Legend: B batch, T time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.calls import loss_of, new_batch, new_model, seeded
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, fields, replaced
from andon.verify.access.targets import targets_of, tokens_of, with_tokens
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject

MOST, ROWS = 512, 4  # tokens and rows of a small batch
_MARKS_PADDING = WeakIdKeyDictionary()  # whether a subject's mask does


def rows_of(subject: Subject, batch: Batch, chosen: Sequence[int] | Tensor) -> Batch:
    """The batch with these rows, repeated or not, of each part that has as many rows as there are tokens' rows.

    Raises:
        NotApplicable: a part has another number, such as offsets into a packed batch: nobody knows what they would be.
    """
    (count, time), index = tokens_of(subject, batch).shape, torch.as_tensor(chosen)
    for key, value in fields(batch).items():
        if isinstance(value, Tensor) and value.dim() and len(value) not in (1, count, time):
            raise NotApplicable(f"a batch whose parts have a row each; {key!r} has shape {tuple(value.shape)}")
    parts = {key: value for key, value in fields(batch).items() if isinstance(value, Tensor) and value.dim()}
    return replaced(batch, {key: value[index.to(value.device)] for key, value in parts.items() if len(value) == count})


def first_positions(subject: Subject, batch: Batch, length: int) -> Batch:
    """The batch's first `length` positions: (B, T, ...) in the second dimension, (..., T, T) in the last two."""
    time = tokens_of(subject, batch).shape[1]
    if length >= time:
        return batch
    changes = {}
    for key, value in fields(batch).items():
        if not isinstance(value, Tensor):
            continue
        if value.dim() >= 3 and value.shape[-2:] == (time, time):
            changes[key] = value[..., :length, :length].contiguous()
        elif value.dim() >= 2 and value.shape[1] == time:
            changes[key] = value[:, :length].contiguous()
        elif value.dim() == 1 and len(value) == time:
            changes[key] = value[:length]
    return replaced(batch, changes)


def small_batch(subject: Subject, seed: int = 0) -> Batch:
    """A batch of the subject's, of a large one some rows and their beginning, so that large models take seconds.

    Rows whose beginning has no counted target are left whole.
    """
    batch = new_batch(subject, seed)
    rows, time = tokens_of(subject, batch).shape
    if rows * time <= MOST:
        return batch
    batch = rows_of(subject, batch, range(min(rows, ROWS)))
    shorter = first_positions(subject, batch, MOST // min(rows, ROWS))
    try:
        return shorter if bool((targets_of(subject, shorter) != IGNORE).any()) else batch
    except NotApplicable:
        return shorter


def other_tokens(tokens: Tensor, seed: int = 0) -> Tensor:
    """For each token another one that occurs among them, so that it is one that the model knows.

    Raises:
        NotApplicable: only one occurs.
    """
    words = tokens.unique()
    if len(words) < 2:
        raise NotApplicable("a batch with different tokens in it")
    steps = torch.randint(1, len(words), tokens.shape, generator=torch.Generator().manual_seed(seed))
    return words[(torch.searchsorted(words, tokens) + steps.to(tokens.device)) % len(words)]


def real_in(subject: Subject, batch: Batch) -> Tensor:
    """(B, T): whether a token is real, not padding, by the batch's mask; all are where there is none."""
    tokens_BT = tokens_of(subject, batch)
    if "mask" in find(subject, batch):
        mask_BT = part(subject, batch, "mask")
        if mask_BT.shape == tokens_BT.shape:
            return (mask_BT == 0) if marks_padding(subject) else (mask_BT != 0)
    return torch.ones_like(tokens_BT, dtype=torch.bool)


def marks_padding(subject: Subject) -> bool:
    """Whether the mask is set where tokens are padding, as torch's `key_padding_mask` is.

    Measured on batch 0: no token under a set mask has a part in the loss, and one that is not under it has.
    """
    if subject not in _MARKS_PADDING:
        batch = new_batch(subject)
        tokens_BT = tokens_of(subject, batch)
        mask_BT = part(subject, batch, "mask") if "mask" in find(subject, batch) else torch.ones_like(tokens_BT)
        both = mask_BT.shape == tokens_BT.shape and bool((mask_BT == 0).any()) and bool((mask_BT != 0).any())
        _MARKS_PADDING[subject] = (
            both and not _matters(subject, batch, mask_BT != 0) and _matters(subject, batch, mask_BT == 0)
        )
    return _MARKS_PADDING[subject]


def _matters(subject: Subject, batch: Batch, chosen_BT: Tensor) -> bool:
    """Whether other tokens at these places make another loss."""
    tokens_BT, model = tokens_of(subject, batch), new_model(subject).eval()
    other = with_tokens(subject, batch, torch.where(chosen_BT, other_tokens(tokens_BT), tokens_BT))
    losses = []
    for each in (batch, other):
        with seeded(), torch.no_grad():
            losses.append(float(loss_of(subject, model, each)))
    return losses[0] != losses[1]


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return [value]
    if hasattr(value, "values") and callable(value.values):
        value = list(value.values())
    return [tensor for each in value for tensor in tensors_in(each)] if isinstance(value, tuple | list) else []
