"""Which rows of data a place of the script has passed to its model, told by fingerprints of a sample of each row."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

COLUMNS = 128  # of a row that are read
MOST = 100_000  # rows that are remembered
TABLE = 64  # columns of a table whose rows are kept
BATCHES = 64  # whose numbers are added up


@dataclass
class Size:
    """How large the numbers of the first batches are."""

    count: int = 0
    batches: int = 0
    total: float = 0.0
    squares: float = 0.0

    def note(self, read: np.ndarray) -> None:
        """Add what was read of a batch."""
        if self.batches < BATCHES and read.dtype.kind == "f" and np.isfinite(read).all():
            self.batches += 1
            self.count += read.size
            self.total += float(read.sum(dtype=np.float64))
            self.squares += float(np.square(read, dtype=np.float64).sum())

    @property
    def mean(self) -> float:
        """Of all numbers."""
        return self.total / self.count

    @property
    def deviation(self) -> float:
        """Of all numbers, as one."""
        return max(0.0, self.squares / self.count - self.mean**2) ** 0.5


@dataclass
class Rows:
    """Fingerprints in the order in which they came."""

    seen: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)  # rows of each
    table: dict[int, np.ndarray] = field(default_factory=dict)  # rows (F,) of few numbers, by their fingerprints
    size: Size = field(default_factory=Size)

    def note(self, values: tuple[Any, ...]) -> None:
        """Add a batch's rows, as the first tensor with rows shows them."""
        if len(self.seen) >= MOST:
            return
        tensor = next((each for each in _tensors(values) if each.dim() > 1 and each.numel()), None)
        if tensor is None:
            return
        read = _read(tensor)
        prints = _fingerprints(read)
        self.size.note(read)
        self.seen += prints
        self.batches.append(len(tensor))
        if tensor.dim() == 2 and tensor.is_floating_point() and tensor.shape[1] <= TABLE:
            self._keep(prints, read)

    def _keep(self, prints: list[int], read: np.ndarray) -> None:
        """The rows that were not seen before, as they are."""
        for place, each in enumerate(prints):
            if each not in self.table:
                self.table[each] = read[place].copy()


def fingerprints(tensor: Tensor) -> list[int]:
    """A number for each row, the same for the same row."""
    return _fingerprints(_read(tensor))


def _fingerprints(read: np.ndarray) -> list[int]:
    whole, width = read.tobytes(), read.shape[1] * read.itemsize
    return [hash(whole[begin : begin + width]) for begin in range(0, len(whole), width)] if width else []


def _read(tensor: Tensor) -> np.ndarray:
    """A sample of each row: (R, F), F of some columns at most."""
    flat = tensor.detach().reshape(len(tensor), -1)
    if flat.shape[1] > COLUMNS:
        flat = flat.index_select(1, _columns(flat.shape[1], flat.device))
    if flat.is_floating_point() and flat.dtype not in (torch.float16, torch.float32, torch.float64):
        flat = flat.float()
    return flat.cpu().resolve_conj().resolve_neg().numpy()


@cache
def _columns(width: int, device: torch.device) -> Tensor:
    """Which of them are read."""
    return torch.linspace(0, width - 1, COLUMNS).long().to(device)


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    return [each for each in values if isinstance(each, Tensor)]
