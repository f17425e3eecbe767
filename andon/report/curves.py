"""A run's log as curves for a plot: smoothed, and thinned so that every spike stays visible."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from andon.log import Record, of_kind

MAX_POINTS = 3000
SMOOTHED_PARTS = 120  # the smoothing window extends over one part in this many of the run, to each side


def curves(log: list[Record], baselines: dict[str, float]) -> dict[str, Any]:
    """Columns for the plots, one row per step that is kept; None where nothing was measured at that step."""
    rows = rows_by_step(log)
    smooth = smoothed([row["loss"] for row in rows])
    kept = downsampled([row["loss"] for row in rows], [row["grad_norm"] for row in rows], MAX_POINTS)
    kept += [index for index, row in enumerate(rows) if row["validation"] is not None]
    kept = sorted(set(kept))
    columns = {name: [rows[index][name] for index in kept] for name in ("step", "loss", "validation", "rate")}
    return columns | {
        "smooth": [smooth[index] for index in kept],
        "norm": [rows[index]["grad_norm"] for index in kept],
        "skipped": [row["step"] for row in rows if row["skipped"]],
        "baselines": baselines,
    }


def rows_by_step(log: list[Record]) -> list[Record]:
    """One row per step, in order, with the validation after it; a step logged twice (by a resumed run) counts once."""
    rows: dict[int, Record] = {}
    for record in of_kind(log, "step"):
        rows[record["step"]] = {
            "step": record["step"],
            "loss": finite(record.get("loss")),
            "grad_norm": finite(record.get("grad_norm")),
            "rate": finite(record.get("learning_rate")),
            "skipped": bool(record.get("skipped")),
            "validation": None,
        }
    empty = {"loss": None, "grad_norm": None, "rate": None, "skipped": False}
    for record in of_kind(log, "validation"):
        row = rows.setdefault(record["step"], {"step": record["step"], **empty})
        row["validation"] = finite(record.get("loss"))
    return [rows[step] for step in sorted(rows)]


def finite(value: float | None) -> float | None:
    """The number, or None if it is not finite: JSON for a browser has no NaN."""
    return value if value is not None and math.isfinite(value) else None


def smoothed(values: Sequence[float | None]) -> list[float | None]:
    """Each value's mean with its neighbors on both sides, so that the curve does not lag; None where None was."""
    reach = max(len(values) // SMOOTHED_PARTS, 1)
    sums = [0.0, *accumulate(value or 0.0 for value in values)]
    counts = [0, *accumulate(value is not None for value in values)]
    out: list[float | None] = []
    for index, value in enumerate(values):
        low, high = max(index - reach, 0), min(index + reach + 1, len(values))
        out.append(None if value is None else (sums[high] - sums[low]) / (counts[high] - counts[low]))
    return out


def downsampled(first: Sequence[float | None], second: Sequence[float | None], most: int) -> list[int]:
    """Indices of at most `most` rows (and the last) with the extremes of both columns in every interval."""
    count = len(first)
    if count <= most:
        return list(range(count))
    interval = math.ceil(count / (most // 4))
    kept = {0, count - 1}
    for begin in range(0, count, interval):
        for column in (first, second):
            values = enumerate(column[begin : begin + interval], start=begin)
            here = [(value, index) for index, value in values if value is not None]
            if here:
                kept |= {min(here)[1], max(here)[1]}
    return sorted(kept)
