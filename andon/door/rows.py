"""Which rows of data a place of the script has passed to its model, told by fingerprints of a sample of each row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andon.door.growing import longer

COLUMNS = 128  # of a row that are read
MOST = 100_000  # rows that are remembered
TABLE = 64  # columns of a table whose rows are kept
TEXT = 1 << 16  # token ids of a batch that are held against those of the batch before
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
    places: list[int] = field(default_factory=list)  # of each, among all passes of the run
    steps: list[int] = field(default_factory=list)  # of the run, before each
    models: list[int] = field(default_factory=list)  # ids, of what each was given to
    grown: list[bool] = field(default_factory=list)  # each: the batch before, with more tokens, as generation makes it
    table: dict[int, np.ndarray] = field(default_factory=dict)  # rows (F,) of few numbers, by their fingerprints
    size: Size = field(default_factory=Size)

    _last: tuple[Tensor, ...] = ()  # of token ids

    def note(
        self, values: tuple[Any, ...], place: int = 0, steps: int = 0, model: int = 0, *, grows: bool = True
    ) -> None:
        """Add a batch's rows, as the first tensor with rows shows them; its place among passes, after which steps.

        `grows`: where it may be the batch before with more tokens, which nothing is that is trained on.
        """
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
        self.places.append(place)
        self.steps.append(steps)
        self.models.append(model)
        self.grown.append(grows and self._goes_on(tensor))
        if tensor.dim() == 2 and tensor.is_floating_point() and tensor.shape[1] <= TABLE:
            self._keep(prints, read)

    def firsts(self) -> dict[int, int]:
        """Each row's first place among the run's passes, where it is known."""
        found: dict[int, int] = {}
        for row, place in self._with(self.places):
            found.setdefault(row, place)
        return found

    def firsts_of(self) -> dict[int, dict[int, int]]:
        """The same of each model."""
        found: dict[int, dict[int, int]] = {}
        for (row, place), (_, model) in zip(self._with(self.places), self._with(self.models), strict=True):
            found.setdefault(model, {}).setdefault(row, place)
        return found

    def lasts_of(self, begun: int) -> dict[int, dict[int, int]]:
        """Each model's rows by their last place, from one place on; not those that generation made."""
        found: dict[int, dict[int, int]] = {}
        numbers = zip(self._with(self.places), self._with(self.models), self._with(self.grown), strict=True)
        for (row, place), (_, model), (_, grown) in numbers:
            if place >= begun and not grown:
                found.setdefault(model, {})[row] = place
        return found

    def by_step(self) -> Iterator[tuple[int, int]]:
        """Each row, and the steps before it, where they are known."""
        return self._with(self.steps)

    def since(self, place: int) -> list[int]:
        """Those of this place among the run's passes and of later ones."""
        return self.seen[sum(size for size, each in zip(self.batches, self.places, strict=False) if each < place) :]

    def by_batch(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each batch's place and rows, where its place is known."""
        begins = accumulate(self.batches, initial=0)
        for begin, size, place in zip(begins, self.batches, self.places, strict=False):
            yield place, tuple(self.seen[begin : begin + size])

    def at_once(self, place: int, stretches: int) -> list[int]:
        """Those that came first from a place on, before the next step, or as many as one of so many stretches has."""
        moments = [steps for steps, each in zip(self.steps, self.places, strict=False) if each >= place]
        count = sum(
            size
            for size, steps, each in zip(self.batches, self.steps, self.places, strict=False)
            if each >= place and steps == moments[0]
        )
        seen = self.since(place)
        return seen[: min(count, len(seen) // stretches) if moments else len(seen) // stretches]

    def _with(self, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Each row, with its batch's number."""
        begins = accumulate(self.batches, initial=0)
        for begin, size, number in zip(begins, self.batches, numbers, strict=False):
            yield from ((row, number) for row in self.seen[begin : begin + size])

    def _goes_on(self, tensor: Tensor) -> bool:
        """Whether a batch is the one before with tokens added to each of its rows."""
        is_text = tensor.dim() == 2 and not tensor.is_floating_point() and tensor.numel() <= TEXT
        before, self._last = self._last, (tensor.detach().clone(),) if is_text else ()
        return bool(longer(before, self._last))

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
