"""Batches for one step: micro-batches and single rows, as unequal in counted tokens as the subject's own may be.

Legend: B batch, T time.
"""

from andon.verify.access.batches import rows_of
from andon.verify.access.calls import new_batch
from andon.verify.access.parts import find
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of, tokens_of, with_targets
from andon.verify.subject import Batch, Subject


def counted(subject: Subject, batch: Batch) -> int:
    """How many tokens a batch's loss is the mean of."""
    return int((targets_of(subject, batch) != IGNORE).sum())


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
