"""Where a run's time went, from spans and from the log."""

import json
from pathlib import Path
from typing import Any

import pytest

from andon.report.timeline import Bar, Column, OtherSpans, Row, read_timeline, shares

pytestmark = pytest.mark.tier1
MS = 1_000_000


def span(name: str, start: int, end: int, own: str, parent: str, **attributes: int) -> dict[str, Any]:
    """A span in OTLP's JSON, from `start` to `end` milliseconds."""
    return {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": own,
        "parentSpanId": parent,
        "name": name,
        "startTimeUnixNano": str(start * MS),
        "endTimeUnixNano": str(end * MS),
        "attributes": [{"key": key, "value": {"intValue": str(value)}} for key, value in attributes.items()],
    }


def line(*spans: dict[str, Any]) -> str:
    """A recorded line."""
    return json.dumps({"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": spans}]}]}) + "\n"


def step(number: int, start: int, milliseconds: int) -> str:
    """A step's line: forward and backward twice, in tenths of the step, and half of it uncovered."""
    tenth = milliseconds // 10
    names = ["forward", "backward", "forward", "backward"]
    phases = []
    for index, name in enumerate(names):
        begin = start + index * tenth
        phases.append(span(name, begin, begin + tenth, f"{number}.{index}", f"{number}"))
    inner = span("kernel", start, start + tenth, f"{number}.9", f"{number}.0")
    whole = span("train.step", start, start + milliseconds, f"{number}", "window", **{"train.step": number})
    return line(inner, *phases, whole)


def test_the_typical_step_and_what_is_beside(tmp_path: Path) -> None:
    """Behavior: the median step laid out in percent, phases together by name, the rest as other; others counted."""
    path = tmp_path / "trace.jsonl"
    path.write_text(
        line(span("train run start", 0, 0, "s", ""))
        + step(1, 0, 500)
        + step(2, 1000, 100)
        + line(span("validation", 1100, 3100, "v", "window"))
        + step(3, 4000, 40)
        + line(span("checkpoint", 4100, 4600, "c", "window"))
        + line(span("validation", 5000, 6000, "v", "window"))
        + line(span("train window", 0, 6000, "window", ""))
    )
    typical, beside = read_timeline(path)
    assert typical is not None
    assert (2, 100.0) == typical[:2]
    assert [
        Row("forward", [Bar(0, 10), Bar(20, 10)], 20.0, 20.0),
        Row("backward", [Bar(10, 10), Bar(30, 10)], 20.0, 20.0),
        Row("other", [], 60.0, 60.0),
    ] == typical.rows
    assert [OtherSpans("validation", 2, 3.0), OtherSpans("checkpoint", 1, 0.5)] == beside


def test_a_trace_without_steps(tmp_path: Path) -> None:
    """Behavior: a run that died before its first step has no typical step."""
    path = tmp_path / "trace.jsonl"
    path.write_text(line(span("train run start", 0, 0, "s", "")))
    assert (None, []) == read_timeline(path)


def test_shares_add_up() -> None:
    """Behavior: seconds in all by phase, and stretches of the run in percent, in the order of the phases."""
    steps = [{"step": number, "seconds": {"forward": 1.0, "backward": 3.0}} for number in range(1, 97)]
    steps[94:] = [{"step": number, "seconds": {"backward": 1.0, "forward": 1.0}} for number in (95, 96)]
    totals, columns = shares(steps)
    assert {"forward": 96.0, "backward": 284.0} == totals
    assert 48 == len(columns)
    assert [Column(1, 2, [25.0, 75.0]), Column(95, 96, [50.0, 50.0])] == [columns[0], columns[-1]]


@pytest.mark.parametrize("count", [0, 1, 47, 48, 49, 1000])
def test_every_step_is_in_one_stretch(count: int) -> None:
    """Behavior: at most 48 stretches that together hold each step once."""
    _, columns = shares([{"step": number, "seconds": {"forward": 1.0}} for number in range(1, count + 1)])
    assert len(columns) <= 48
    assert list(range(1, count + 1)) == [number for each in columns for number in range(each.first, each.last + 1)]


def test_steps_without_seconds() -> None:
    """Behavior: a log that kept no times has no shares."""
    assert ({}, []) == shares([{"step": 1}, {"step": 2, "seconds": {}}])
