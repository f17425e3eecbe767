"""Where a loss compares a label: with the logits at its own place, or with those before it. Measured on the loss alone.

Legend: B batch, T time.
"""

import torch
from torch import Tensor

from andon.verify.access.batches import other_tokens
from andon.verify.access.calls import loss_of, seeded
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.parts import find, part
from andon.verify.access.roles import IGNORE, replaced
from andon.verify.access.targets import tokens_of, with_tokens
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject

MOVED = 1e-2  # of what exchanging a label changes: what rounding leaves is below it
PLACES = 4  # that are asked


def label_reads_its_place(subject: Subject, batch: Batch) -> bool | None:
    """Whether the logits that a label is compared with have seen the token at the label's own place.

    What exchanging the label at a place changes in the loss is a function of those logits alone; it moves with the
    token at that place if they have seen it. None where this cannot be told: there is nothing to exchange, later tokens
    move it too (the model sees both sides), or places differ.
    """
    if "labels" not in find(subject, batch):
        return None
    try:
        found = {_reads(subject, batch, place) for place in _places(subject, batch)}
    except NotApplicable:
        return None
    return found.pop() if len(found) == 1 else None


def _places(subject: Subject, batch: Batch) -> list[int]:
    """A few inner columns in which the first row has a label."""
    labels_T = part(subject, batch, "labels")[0]
    inner = [int(place) for place in (labels_T >= 0).nonzero().flatten() if 1 < int(place) < len(labels_T) - 2]
    return inner[:: max(1, len(inner) // PLACES)][:PLACES]


def _reads(subject: Subject, batch: Batch, place: int) -> bool:
    """Whether the first row's label at this place is compared with logits that have seen the token there."""
    tokens_BT, labels_BT = tokens_of(subject, batch), part(subject, batch, "labels")
    other_BT, words_BT = other_tokens(tokens_BT), other_tokens(labels_BT.masked_fill(labels_BT < 0, IGNORE))
    if int(words_BT[0, place]) < 0:
        words_BT = words_BT.where(words_BT >= 0, int(labels_BT.max()) - labels_BT[0, place])
    plain = _effect(subject, batch, words_BT, place)
    at_place, later = tokens_BT.clone(), tokens_BT.clone()
    at_place[0, place], later[0, place + 1 :] = other_BT[0, place], other_BT[0, place + 1 :]
    moved_here, moved_later = (
        abs(_effect(subject, with_tokens(subject, batch, changed_BT), words_BT, place) - plain)
        for changed_BT in (at_place, later)
    )
    if not plain or moved_later > MOVED * abs(plain):
        raise NotApplicable("a model that sees nothing later")
    return moved_here > MOVED * abs(plain)


def _effect(subject: Subject, batch: Batch, words_BT: Tensor, place: int) -> float:
    """By how much the loss changes when the first row's label at this place is another word."""
    labels_BT = part(subject, batch, "labels")
    changed_BT = labels_BT.clone()
    changed_BT[0, place] = words_BT[0, place]
    model, key = perturbed_model(subject), find(subject, batch)["labels"]
    with seeded(), torch.no_grad():
        return float(loss_of(subject, model, replaced(batch, {key: changed_BT}))) - float(
            loss_of(subject, model, batch)
        )
