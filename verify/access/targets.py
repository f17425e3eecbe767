"""What a batch's tokens are, and what they are to predict: inferred from its parts.

Legend: B batch, T time.
"""

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.calls import loss_of, new_model
from andon.verify.access.roles import IGNORE, find, part, replaced
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject

HALF = 0.5
_IGNORED = WeakIdKeyDictionary()  # a subject's label that is not counted


def tokens_of(subject: Subject, batch: Batch) -> Tensor:
    """Token ids (B, T)."""
    return part(batch, "tokens", subject.roles)


def with_tokens(subject: Subject, batch: Batch, tokens_BT: Tensor) -> Batch:
    """The batch with other tokens, all else as it is."""
    return replaced(batch, {find(batch, subject.roles)["tokens"]: tokens_BT})


def is_shifted_inside(subject: Subject, batch: Batch) -> bool:
    """Whether labels stand under their own tokens, and the loss shifts them (Hugging Face), or one to the left.

    Told from the batch itself: its labels repeat its tokens, or run ahead of them. No labels: the loss shifts.
    """
    found = find(batch, subject.roles)
    if "labels" not in found:
        return True
    tokens_BT, labels_BT = tokens_of(subject, batch), part(batch, "labels", subject.roles)
    if tokens_BT.shape != labels_BT.shape:
        raise NotApplicable("labels of the tokens' shape")
    if not subject.causal:
        return False
    under = _agreement(tokens_BT, labels_BT)
    ahead = _agreement(tokens_BT[:, 1:], labels_BT[:, :-1])
    if max(under, ahead) < HALF:
        if isinstance(found["labels"], int):  # a pair (x, y) of random numbers, as tests have them
            return False
        raise NotApplicable("labels that are the batch's own tokens, at their place or one ahead")
    return under > ahead


def targets_of(subject: Subject, batch: Batch) -> Tensor:
    """(B, T): what the logits at each position are to predict, IGNORE where nothing is counted."""
    tokens_BT = tokens_of(subject, batch)
    inside = is_shifted_inside(subject, batch)
    found = find(batch, subject.roles)
    labels_BT = part(batch, "labels", subject.roles) if "labels" in found else tokens_BT
    labels_BT = labels_BT.masked_fill(labels_BT < 0, IGNORE)
    if "counted" in found:
        labels_BT = labels_BT.masked_fill(part(batch, "counted", subject.roles) == 0, IGNORE)
    elif "labels" not in found and "mask" in found:
        labels_BT = labels_BT.masked_fill(part(batch, "mask", subject.roles) == 0, IGNORE)
    if not inside:
        return labels_BT
    targets_BT = torch.full_like(labels_BT, IGNORE)
    targets_BT[:, :-1] = labels_BT[:, 1:]
    return targets_BT


def with_targets(subject: Subject, batch: Batch, targets_BT: Tensor) -> Batch:
    """The batch with other targets; where the loss shifts, the last column's cannot be said and is left out.

    Raises:
        NotApplicable: the batch has no labels.
    """
    found = find(batch, subject.roles)
    if "labels" not in found:
        raise NotApplicable("labels in the batch")
    labels_BT = targets_BT
    if is_shifted_inside(subject, batch):
        labels_BT = torch.full_like(targets_BT, IGNORE)
        labels_BT[:, 1:] = targets_BT[:, :-1]
    ignored_BT = labels_BT == IGNORE
    labels_BT = labels_BT.masked_fill(ignored_BT, ignored_label(subject, batch))
    changes = {found["labels"]: labels_BT}
    if "counted" in found:
        counted_BT = part(batch, "counted", subject.roles)
        changes[found["counted"]] = (~ignored_BT).to(counted_BT.dtype)
        changes[found["labels"]] = labels_BT.clamp_min(0)
    return replaced(batch, changes)


def ignored_label(subject: Subject, batch: Batch) -> int:
    """The label that the loss does not count: the negative one in the batch, else what the loss takes.

    Found by trying, on the CPU alone: a label out of range would end a GPU's process.
    """
    labels_BT = part(batch, "labels", subject.roles)
    negative = labels_BT[labels_BT < 0]
    if len(negative) or labels_BT.device.type != "cpu":
        return int(negative.min()) if len(negative) else IGNORE
    if subject not in _IGNORED:
        _IGNORED[subject] = next((label for label in (IGNORE, -1) if _is_taken(subject, batch, label)), IGNORE)
    return _IGNORED[subject]


def _is_taken(subject: Subject, batch: Batch, label: int) -> bool:
    changed_BT = part(batch, "labels", subject.roles).clone()
    changed_BT[:, 1] = label
    try:
        with torch.no_grad():
            loss_of(subject, new_model(subject), replaced(batch, {find(batch, subject.roles)["labels"]: changed_BT}))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def _agreement(tokens_BT: Tensor, labels_BT: Tensor) -> float:
    counted = labels_BT >= 0
    return float((tokens_BT[counted] == labels_BT[counted]).double().mean()) if bool(counted.any()) else 0.0
