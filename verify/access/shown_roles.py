"""Which parts of a batch are its tokens, positions and documents: told from what they do, not from their names.

Legend: B batch, T time.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from andon.verify.access.roles import IGNORE, is_index

MOST = 0.9  # of the places of a part that must be as a role has them
FEWEST = 8  # targets that a part must hold before it is what is predicted
Key = str | int


def shown_roles(
    parts: Mapping[Key, Any], tables: Mapping[Key, int], targets: Tensor | None, classes: int
) -> dict[str, Key]:
    """Role to key of whole numbers (B, T); `tables` says how many rows each part picks from.

    Tokens are what picks from a table. Where several do: the one that the loss predicts one place ahead, or else whose
    table has a row for each class; what is predicted at its own place is no input there, as actions are none.
    Positions count up by one, or begin anew at 0. Documents are runs of one number, each of which positions begin with,
    within a place. What two parts could be, none is.
    """
    whole = {key: part for key, part in parts.items() if isinstance(part, Tensor) and is_index(part)}
    tokens = _tokens({key: part for key, part in whole.items() if key in tables}, tables, targets, classes)
    if tokens is None:
        return {}
    free = {key: part for key, part in whole.items() if key != tokens and part.shape == whole[tokens].shape}
    free = {key: part for key, part in free.items() if targets is None or not _holds(part, targets)}
    return {"tokens": tokens} | _numbers(free)


def _numbers(free: Mapping[Key, Tensor]) -> dict[str, Key]:
    """Positions, and documents that begin where they do."""
    positions = [key for key, part in free.items() if _counts_up(part)]
    if len(positions) != 1:
        return {}
    begin = free[positions[0]]
    documents = [key for key, part in free.items() if key not in positions and _begins(part, begin)]
    return {"positions": positions[0]} | ({"documents": documents[0]} if len(documents) == 1 else {})


def _tokens(
    looking: Mapping[Key, Tensor], tables: Mapping[Key, int], targets: Tensor | None, classes: int
) -> Key | None:
    if len(looking) < 2:
        return next(iter(looking), None)
    others = {key: part for key, part in looking.items() if targets is None or not _holds(part, targets, (0,))}
    predicted = [key for key, part in others.items() if targets is not None and _holds(part, targets, (1,))]
    as_many = [key for key in predicted or others if tables[key] == classes]
    found = predicted if len(predicted) == 1 else as_many
    return found[0] if len(found) == 1 else None


def _holds(part: Tensor, targets: Tensor, distances: tuple[int, ...] = (0, 1)) -> bool:
    """Whether targets stand in a part so many places later."""
    rows, time = part.shape
    if targets.numel() not in (rows * time, rows * (time - 1)):
        return False
    due = targets.reshape(rows, -1)
    for distance in distances:
        width = min(due.shape[1], time - distance)
        counted = due[:, :width] != IGNORE
        ahead = part[:, distance : distance + width]
        if int(counted.sum()) >= FEWEST and _share((ahead == due[:, :width])[counted]) > MOST:
            return True
    return False


def _counts_up(part: Tensor) -> bool:
    """Whether each number of a row is one more than the last, or 0 again, and most are the former."""
    if part.shape[1] < 3 or bool((part < 0).any()):
        return False
    up = part.diff(dim=1) == 1
    return _share(up) > 0.5 and bool((up | (part[:, 1:] == 0)).all()) and len(part[:, 0].unique()) == 1


def _begins(part: Tensor, positions: Tensor) -> bool:
    """Whether rows are runs of numbers that do not come again, and positions begin anew within a place of each."""
    border = part.diff(dim=1) != 0
    if not bool(border.any()) or any(len(row.unique_consecutive()) != len(row.unique()) for row in part):
        return False
    anew = torch.zeros_like(part, dtype=torch.bool)
    anew[:, 1:] = positions.diff(dim=1) != 1
    near = anew.clone()
    for there, here in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
        near[:, here] |= anew[:, there]
    return _share(near[:, 1:][border]) > MOST


def _share(flags: Tensor) -> float:
    return float(flags.double().mean()) if flags.numel() else 0.0
