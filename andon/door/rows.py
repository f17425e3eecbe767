"""Which rows of data a place of the script has passed to its model, told by fingerprints of a sample of each row."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

COLUMNS = 128  # of a row that are read
MOST = 100_000  # rows that are remembered
TABLE = 64  # columns of a table whose sums are kept


@dataclass
class Rows:
    """Fingerprints in the order in which they came."""

    seen: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)  # rows of each
    table: dict[int, Any] = field(default_factory=dict)  # of rows (F,) of few numbers, each once, by its fingerprint

    def note(self, values: tuple[Any, ...]) -> None:
        """Add a batch's rows, as the first tensor with rows shows them."""
        if len(self.seen) >= MOST:
            return
        tensor = next((each for each in _tensors(values) if each.dim() > 1 and each.numel()), None)
        if tensor is None:
            return
        prints = fingerprints(tensor)
        self.seen += prints
        self.batches.append(len(tensor))
        if tensor.dim() == 2 and tensor.is_floating_point() and tensor.shape[1] <= TABLE:
            self._keep(prints, tensor)

    def _keep(self, prints: list[int], tensor: Tensor) -> None:
        """The rows that were not seen before, as they are."""
        new = [place for place, each in enumerate(prints) if each not in self.table]
        if new:
            rows = tensor.detach()[new].float().cpu().numpy()
            self.table.update(zip([prints[place] for place in new], rows, strict=True))


def fingerprints(tensor: Tensor) -> list[int]:
    """A number for each row, the same for the same row."""
    flat = tensor.detach().reshape(len(tensor), -1)
    if flat.shape[1] > COLUMNS:
        flat = flat.index_select(1, _columns(flat.shape[1], flat.device))
    if flat.is_floating_point() and flat.dtype not in (torch.float16, torch.float32, torch.float64):
        flat = flat.float()
    read = flat.cpu().resolve_conj().resolve_neg().numpy()
    whole, width = read.tobytes(), read.shape[1] * read.itemsize
    return [hash(whole[begin : begin + width]) for begin in range(0, len(whole), width)] if width else []


@cache
def _columns(width: int, device: torch.device) -> Tensor:
    """Which of them are read."""
    return torch.linspace(0, width - 1, COLUMNS).long().to(device)


def _tensors(values: tuple[Any, ...]) -> list[Tensor]:
    return [each for each in values if isinstance(each, Tensor)]
