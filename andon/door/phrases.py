"""Stretches of token ids that were seen, told by hashes of a sample of them, wherever in a row they stand.

A stretch is kept if its own hash says so: the same ones are kept of any text, at any offset. With it goes what stands
before and behind it, so that text that repeats itself is told from text that is given twice.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

LENGTH = 16  # tokens of a stretch
NARROW, BROAD, WIDE = 4, 8, 64  # tokens on each side of it, in rows below WIDE and in others
TOKENS, COLUMNS = 2048, 1024  # of a batch that are read
MOST, BATCHES = 100_000, 256  # stretches and batches that are remembered
ALL, EVERY = 64, 4  # batches of training that are all read, and then one in so many
FEW, MANY = np.uint64(15), np.uint64(3)  # one in sixteen of wide rows, one in four of others
FACTOR = 0x9E3779B97F4A7C15
WORD = 1 << 64
POWERS, INVERSES = (
    np.array([pow(base, each, WORD) for each in range(COLUMNS + 1)], dtype=np.uint64)
    for base in (FACTOR, pow(FACTOR, -1, WORD))
)


@dataclass
class Phrases:
    """What was seen at one place of the script."""

    around: dict[int, int] = field(default_factory=dict)  # a stretch, and what stands around it
    batches: list[dict[int, int]] = field(default_factory=list)
    again: int = 0  # stretches that were seen before
    otherwise: int = 0  # of them, those with something else around them

    def note(self, tensor: Tensor, *, trained: int = 0) -> None:
        """Add a batch (B, T) of token ids, after so many of training: most of the later ones are passed over."""
        if trained > ALL and trained % EVERY:
            return
        if len(self.around) >= MOST or tensor.dim() != 2 or tensor.is_floating_point() or tensor.dtype == torch.bool:
            return
        if tensor.shape[1] < LENGTH + 2 * NARROW:
            return
        columns = min(COLUMNS, tensor.shape[1])
        rows = max(1, TOKENS // columns)
        found = _stretches(tensor.detach()[:rows, :columns].cpu().numpy().astype(np.uint64))
        for stretch, neighbors in found.items():
            known = self.around.get(stretch)
            self.again += known is not None
            self.otherwise += known not in (None, neighbors)
            self.around.setdefault(stretch, neighbors)
        if len(self.batches) < BATCHES:
            self.batches.append(found)


def _stretches(ids_BT: np.ndarray) -> dict[int, int]:
    """Each stretch of a batch that is kept, and a hash of some tokens before and as many behind it."""
    time = ids_BT.shape[1]
    side = BROAD if time >= WIDE else NARROW
    count = time - LENGTH - 2 * side + 1  # stretches of a row that have both sides
    with np.errstate(over="ignore"):
        sums = np.zeros((len(ids_BT), time + 1), dtype=np.uint64)
        np.cumsum((ids_BT + np.uint64(1)) * POWERS[:time], axis=1, out=sums[:, 1:])

        def hashes(begin: int, tokens: int) -> np.ndarray:
            parts = sums[:, begin + tokens : begin + tokens + count] - sums[:, begin : begin + count]
            return _mixed(parts * INVERSES[begin : begin + count])

        stretches = hashes(side, LENGTH)
        around = hashes(0, side) * np.uint64(FACTOR) + hashes(side + LENGTH, side)
    changes = np.cumsum(ids_BT[:, 1:] != ids_BT[:, :-1], axis=1)
    varied = changes[:, side + LENGTH - 2 : side + LENGTH - 2 + count] - changes[:, side - 1 : side - 1 + count]
    chosen = ((stretches & (FEW if time >= WIDE else MANY)) == 0) & (varied >= LENGTH // 4)
    return dict(zip(stretches[chosen].tolist(), around[chosen].tolist(), strict=True))


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """With all bits in the lowest ones."""
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(FACTOR)
    return hashes ^ (hashes >> np.uint64(32))
