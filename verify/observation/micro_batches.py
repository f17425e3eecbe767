"""Batches for one step: micro-batches and single rows, as unequal in counted tokens as the subject's own may be.

Legend: B batch, T time.
"""

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import new_batch
from andon.verify.access.facts import facts_of
from andon.verify.access.parts import find
from andon.verify.access.roles import IGNORE, fields
from andon.verify.access.targets import (
    ALIKE,
    is_shifted_inside,
    targets_of,
    tokens_of,
    weighs_alike,
    with_targets,
)
from andon.verify.subject import Batch, Subject

_WEIGHED_BY = WeakIdKeyDictionary()  # subjects, and the part of a batch that weighs their labels


def counted(subject: Subject, batch: Batch) -> int:
    """How many tokens a batch's loss is the mean of."""
    return int((targets_of(subject, batch) != IGNORE).sum())


def weight_of(subject: Subject, batch: Batch) -> float:
    """What a batch's labels weigh together in the mean of several batches: their number, or the sum of their weights.

    The latter where the loss of batch 0 is shown to weigh each by a part of the batch, and to divide by their sum.
    """
    key = weights_part(subject)
    return float(counted(subject, batch)) if key is None else float(_weights(subject, batch, key).double().sum())


def weights_part(subject: Subject) -> str | int | None:
    """The part of a batch that the loss is shown to take its labels' weights from; None where it takes none."""
    if subject not in _WEIGHED_BY:
        _WEIGHED_BY[subject] = _shown_weights(subject)
    return _WEIGHED_BY[subject]


def _shown_weights(subject: Subject) -> str | int | None:
    shown, batch = facts_of(subject).cross_entropy, new_batch(subject)
    if shown is None or weighs_alike(shown) or abs(float(shown.weights.sum()) - 1) > ALIKE:
        return None
    tokens_BT = tokens_of(subject, batch)
    for key, value in fields(batch).items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape == tokens_BT.shape:
            given = _weights(subject, batch, key).double().flatten()
            given = given[given > 0] / given.sum()
            found = shown.weights[shown.counted].flatten()
            if given.shape == found.shape and bool(((given - found).abs() <= ALIKE * found.abs().max()).all()):
                return key
    return None


def _weights(subject: Subject, batch: Batch, key: str | int) -> Tensor:
    """Those of the labels that are targets; where the loss shifts, none of the first column's is."""
    value, targets_BT = fields(batch)[key], targets_of(subject, batch)
    if is_shifted_inside(subject, batch):
        value, targets_BT = value[:, 1:], targets_BT[:, :-1]
    return value * (targets_BT != IGNORE)


def is_ragged(subject: Subject) -> bool:
    """Whether this subject's batches count unequal numbers of tokens, as its own examples show."""
    if subject.collate_padded is not None or subject.encode_instruction is not None:
        return True
    seen = [new_batch(subject, seed) for seed in range(3)]
    if any("labels" not in find(subject, batch) for batch in seen):
        return False
    left_out = {int(n) for batch in seen for n in (targets_of(subject, batch) == IGNORE).sum(1)}
    return len(left_out) > 1  # rows of other lengths alone say nothing of labels that are not counted


def micro_batches(subject: Subject, count: int, *, seed: int = 0) -> list[Batch]:
    """Different batches of one step; as unequal in counted tokens as the subject's own may be."""
    ragged, made = is_ragged(subject), []
    for index in range(count):
        batch = new_batch(subject, seed + index)
        if ragged and index % 2:
            targets_BT = targets_of(subject, batch).clone()
            counted_BT = targets_BT != IGNORE
            from_end_BT = counted_BT.flip(1).cumsum(1).flip(1)  # of a row's own labels, which may end in padding
            targets_BT[from_end_BT > max(2, targets_BT.shape[1] // 4)] = IGNORE
            if bool((targets_BT != IGNORE).any()):
                batch = with_targets(subject, batch, targets_BT)
        made.append(batch)
    return made


def single_rows(subject: Subject, count: int) -> list[Batch]:
    """Batches of one row each."""
    made: list[Batch] = []
    for seed in range(count):
        batch = new_batch(subject, seed)
        made += [rows_of(subject, batch, [row]) for row in range(len(tokens_of(subject, batch)))]
        if len(made) >= count:
            break
    return [batch for batch in made if counted(subject, batch)][:count]
