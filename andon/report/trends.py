"""The history of each check of a verdict, as small plots rendered here."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT, MARGIN = 120, 26, 3  # pixels
MAX_VERDICTS = 40  # verdicts in a plot


class Plot(NamedTuple):
    """One check's line: segments of points without a gap, the threshold's height or None, and a label."""

    stretches: list[str]
    last: tuple[float, float] | None
    threshold: float | None
    label: str


def trends(verdict: Mapping[str, Any] | None) -> dict[str, Plot]:
    """A plot for each check of a verdict that the history has at least twice, by its name."""
    if verdict is None:
        return {}
    from andon.gates.report import history

    plots = {}
    entries = history.read()
    for check in verdict["checks"]:
        known = [entry for entry in entries if check["name"] in entry["checks"]][-MAX_VERDICTS:]
        if len(known) > 1:
            numbers = history.values(known, check["name"])
            bound = None if check["unit"] == "exit code" else check["threshold"]
            plots[check["name"]] = plot(numbers, bound)
    return plots


def plot(numbers: Sequence[float | None], bound: float | None) -> Plot:
    """Numbers from left to right, the smallest at the bottom; where nothing was measured the line has a gap."""
    known = [number for number in numbers if number is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)

    def height(number: float) -> float:
        share = (number - low) / (high - low) if high > low else 0.5
        return round(HEIGHT - MARGIN - share * (HEIGHT - 2 * MARGIN), 1)

    stretches: list[list[tuple[float, float]]] = [[]]
    for place, number in enumerate(numbers):
        if number is None:
            stretches.append([])
        else:
            across = MARGIN + place * (WIDTH - 2 * MARGIN) / max(len(numbers) - 1, 1)
            stretches[-1].append((round(across, 1), height(number)))
    lines = [" ".join(f"{x:g},{y:g}" for x, y in stretch) for stretch in stretches if stretch]
    inside = bound is not None and low <= bound <= high
    label = f"{len(known)} of {len(numbers)} verdicts, {low:.4g} to {high:.4g}" if known else "not measured"
    return Plot(lines, (stretches[-1] or [None])[-1], height(bound) if inside and bound is not None else None, label)
