"""Which labels of a micro-batch count, where some do not: their places, and whether other micro-batches have the same.

Legend: B batch, T time.
"""

from collections.abc import Iterable

from torch import Tensor

from andon.verify.access.roles import IGNORE

ROWS, COLUMNS = 32, 512  # that are read
MOST = 0.5  # of labels: where more count, two masks share places by chance
FEWEST = 16  # places that two masks have, before they are compared

Counted = list[dict[int, int]]  # of each row: a place, and its label


def counted_in(parts: Iterable[Tensor]) -> Counted:
    """Of labels (B, T), -100 among them, those that count; none where in no row they are scattered."""
    for part in parts:
        if part.dim() != 2 or part.is_floating_point() or not bool((part == IGNORE).any()):
            continue
        labels = part.detach()[:ROWS, :COLUMNS].cpu()
        found = [{place: label for place, label in enumerate(row) if label != IGNORE} for row in labels.tolist()]
        scattered = sum(_is_scattered(list(row)) for row in found)
        if sum(map(len, found)) < MOST * labels.numel() and 2 * scattered > len(found):
            return found
    return []


def shared(one: Counted, other: Counted, moved: int = 0) -> float:
    """Which share of the places that count do so in another micro-batch's rows as well, or in those further down."""
    pairs = list(zip(one, other[moved:] + other[:moved], strict=False))
    both = sum(len(a.keys() & b.keys()) for a, b in pairs)
    least = min(sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs))
    return both / least if least >= FEWEST else float("nan")


def are_other_rows(one: Counted, other: Counted) -> bool:
    """Whether at the places that both have the labels are mostly others."""
    pairs = [(a[place], b[place]) for a, b in zip(one, other, strict=False) for place in a.keys() & b.keys()]
    return sum(a != b for a, b in pairs) > len(pairs) / 2


def _is_scattered(places: list[int]) -> bool:
    """Whether there are gaps between them: no prefix, no suffix, no one span."""
    return len(places) > 1 and places[-1] - places[0] + 1 > len(places)
