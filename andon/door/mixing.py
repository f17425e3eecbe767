"""Whether what a model returns for one row depends on the batch's other rows.

Legend: B batch.
"""

from typing import Any

import torch
from torch import Tensor

from andon.door.questions.question import again
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Entry, tensors

FEWEST = 4  # rows
MOVED = 1e-3  # of an output's rms: far beyond what another order of sums makes


def mixes_rows(captured: Captured) -> str:
    """The shape of a model's output (B, ...) of which every row moves with any other one; empty where none does.

    Asked of passes in eval mode whose tensors have all a row for each of B; none is a graph's (B, B).
    """
    for entry in captured.entries:
        count = _count(entry)
        parts = {key: each for key, each in captured.parts.items() if any(each is given for given in entry.given())}
        if entry.module is None or count < FEWEST or len(parts) != len(entry.given()):
            continue
        before = _outputs(_again(captured), entry, count)
        for row in (0, count // 2):
            after = _outputs(_again(captured, _other(parts, row)), entry, count)
            before = {key: each for key, each in before.items() if _all_moved(each, after[key], row)}
        for each in before.values():
            return str(tuple(each.shape))
    return ""


def _again(captured: Captured, changes: dict[str, Tensor] | None = None) -> dict[int, Tensor]:
    """All that the script computed, again."""
    with torch.no_grad():
        return again(captured, changes)


def _count(entry: Entry) -> int:
    """B, where each tensor that a pass is given has a row for each; else 0."""
    given = entry.given()
    counts = {len(each) if each.dim() else 0 for each in given}
    square = any(each.shape[:2] == (len(each), len(each)) for each in given if each.dim() > 1)
    plain = (
        not square and not any(each.is_sparse for each in given) and _is_plain((*entry.args, *entry.kwargs.values()))
    )
    return counts.pop() if len(counts) == 1 and plain else 0


def _is_plain(values: tuple[Any, ...]) -> bool:
    """Whether arguments are tensors and constants: what else is one may hold a graph's edges."""
    return all(value is None or isinstance(value, Tensor | bool | int | float | str) for value in values)


def _outputs(values: dict[int, Tensor], entry: Entry, count: int) -> dict[int, Tensor]:
    made = {id(each): values[id(each)] for each in tensors(entry.result)}
    return {
        key: each for key, each in made.items() if each.is_floating_point() and each.dim() > 1 and len(each) == count
    }


def _other(parts: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """The same with one row that is another one's."""
    changed = {name: part.detach().clone() for name, part in parts.items()}
    for name, part in parts.items():
        changed[name][row] = part[row - 1]
    return changed


def _all_moved(before: Tensor, after: Tensor, row: int) -> bool:
    """Whether every row but the one that was changed has moved; what (B, B) pairs with that row must not count."""
    moved = (before - after).abs()
    if before.shape[1] == len(before):
        moved[:, row] = 0
    apart = moved.flatten(1).amax(1) > MOVED * before.square().mean().sqrt()
    apart[row] = True
    return bool(apart.all())
