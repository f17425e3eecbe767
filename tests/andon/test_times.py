"""Milliseconds a step along a run, as columns of a plot and on the page."""

import json
from pathlib import Path

import pytest

from andon.report.page import render_report
from andon.report.times import MOST, Intervals, read_times
from tests.andon.test_page import Page
from tests.andon.test_trace_show import written
from tests.tracing.synthetic import plain_steps, times

pytestmark = pytest.mark.tier2


def test_phases_lie_on_one_another(tmp_path: Path) -> None:
    """Behavior: a column for each phase, what is in none on top, and the slowest step; findings by step and kind."""
    steps = [times(each, 3 if each.number == 250 else 1) for each in plain_steps(400, 0)]
    analysis, columns = read_times(written(tmp_path / "run", steps) / "trace.jsonl")
    verdict = analysis.verdict()
    assert verdict
    assert "compute-bound" == verdict.cause.name
    tops = dict(columns["tops"])
    assert ["data", "forward", "backward", "clip", "optimizer", "other", "between steps"] == list(tops)
    assert list(range(1, 401)) == columns["step"]
    for lower, upper in (("data", "forward"), ("forward", "backward"), ("optimizer", "other")):
        assert all(low <= high for low, high in zip(tops[lower], tops[upper], strict=True))
    height = tops["backward"][6] - tops["forward"][6]
    assert 1e3 * steps[6].phases["backward"].wall == pytest.approx(height, abs=1e-3)
    assert 250 == columns["step"][columns["slowest"].index(max(columns["slowest"]))]
    assert [{"step": 250, "kind": "stall"}] == columns["findings"]


def test_a_long_run_keeps_its_slowest_step() -> None:
    """Behavior: at most MOST intervals of a run of any length, means that stay, and no slow step that gets lost."""
    steps, intervals = plain_steps(5 * MOST, 0), Intervals()
    steps[0] = times(steps[0], 90)._replace(measuring=True)
    slow = [1234, 1235, 2047, 3999]
    steps = [times(step, 50) if index in slow else step for index, step in enumerate(steps)]
    intervals.add(steps)
    columns = intervals.columns()
    assert MOST / 2 <= len(columns["step"]) <= MOST
    shown = {round(each, 2) for each in columns["slowest"] if each > 1000}
    most = [1234, 2047, 3999] if steps[1234].seconds > steps[1235].seconds else [1235, 2047, 3999]  # neighbors
    assert {round(1e3 * (steps[index].seconds.wall + 0.001), 2) for index in most} == shown
    counts = [each.count for each in intervals.found]
    assert 5 * MOST - 1 == sum(counts)
    total = sum(count * top for count, top in zip(counts, dict(columns["tops"])["between steps"], strict=True))
    assert 1e3 * sum(each.seconds.wall + each.after for each in steps[1:]) == pytest.approx(total, rel=1e-6)


def test_the_page_says_and_draws_it(tmp_path: Path) -> None:
    """Behavior: the verdict, findings in words, and the plot; a run that was not traced has none of them."""
    steps = [times(each, 3 if each.number == 250 else 1) for each in plain_steps(400, 0)]
    run = written(tmp_path / "run", steps)
    (run / "log.jsonl").write_text(json.dumps({"kind": "step", "step": 1, "seconds": {}}) + "\n")
    page = Page(render_report(run, None))
    assert "Where the time goes Compute-bound , 99% of " in page.text
    assert "(loop.py:7). Next: a larger batch" in page.text
    assert "1 found in the steps step 250: processor time " in page.text
    assert "times" in [attributes.get("data-plot") for _, attributes in page.elements]
    (run / "trace.jsonl").unlink()
    page = Page(render_report(run, None))
    assert "times" not in [attributes.get("data-plot") for _, attributes in page.elements]
    assert "Next:" not in page.text
