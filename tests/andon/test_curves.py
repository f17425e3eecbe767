"""A run's log, read and thinned for a plot."""

import json
import math
from typing import Any

import pytest

from andon.report.curves import curves, downsampled, smoothed

pytestmark = pytest.mark.tier2


def step(number: int, loss: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A step's record."""
    record = {"kind": "step", "step": number, "loss": loss, "grad_norm": 2.0, "learning_rate": 0.1, "skipped": False}
    return record | changes


def test_columns_are_aligned_by_step() -> None:
    """Behavior: validation stands at its step; what is not finite is None; of a repeated step the last counts."""
    log = [
        *(step(1), step(2, 9.0), step(2, 4.0), step(3, math.nan, grad_norm=math.inf, skipped=True)),
        {"kind": "validation", "step": 2, "loss": 5.0},
        {"kind": "validation", "step": 4, "loss": 3.0},
    ]
    found = curves(log, {"bigram": 3.5})
    assert [1, 2, 3, 4] == found["step"]
    assert [1.0, 4.0, None, None] == found["loss"]
    assert [2.0, 2.0, None, None] == found["norm"]
    assert [None, 5.0, None, 3.0] == found["validation"]
    assert [3] == found["skipped"]
    assert {"bigram": 3.5} == found["baselines"]
    json.dumps(found, allow_nan=False)


def test_smoothing_keeps_lines_and_halves_noise() -> None:
    """Behavior: a straight line stays where it is, without lag; alternating noise shrinks; None stays None."""
    line = [float(value) for value in range(1200)]
    assert line[20:-20] == pytest.approx(smoothed(line)[20:-20])
    noise = [float(index % 2) for index in range(1200)]
    assert max(abs(value - 0.5) for value in smoothed(noise)[20:-20] if value is not None) < 0.03
    assert [1.0, None, 3.0] == smoothed([1.0, None, 3.0])


def test_thinning_keeps_every_spike() -> None:
    """Behavior: 100,000 rows become at most 3,000, with single-step extremes of both columns among them."""
    loss: list[float | None] = [1 / (index + 1) for index in range(100_000)]
    norm: list[float | None] = [1.0] * 100_000
    loss[54_321], norm[77_777], loss[10] = 9.0, 5.0, None
    loss[20_000:30_000] = [None] * 10_000
    kept = downsampled(loss, norm, 3_000)
    assert len(kept) <= 3_000
    assert {0, 54_321, 77_777, 99_999} <= set(kept)
    assert sorted(set(kept)) == kept
    assert any(20_000 <= row < 30_000 for row in kept)  # where one column is empty, the other still counts


def test_few_rows_are_all_kept() -> None:
    """Behavior: nothing is thinned that fits."""
    assert list(range(3000)) == downsampled([1.0] * 3000, [1.0] * 3000, 3000)


def test_an_empty_log() -> None:
    """Behavior: a run that has not finished a step has empty columns."""
    assert [] == curves([], {})["step"]
