"""A verdict's page: the report's table, each check with the way it has been."""

from dataclasses import replace
from pathlib import Path

import pytest

from andon.cli.gate_page import render_page
from andon.gates.report import history
from andon.gates.verdict import Check, Verdict
from andon.report.trends import HEIGHT, MARGIN, WIDTH, plot

pytestmark = pytest.mark.tier2

CHECK = Check("a.lines", "make <a>", 1.0, 97.0, "%", ">=", 95, "lines matter", "more tests", "pass", exit_code=0)


def test_a_line_spans_the_plot_with_gaps_and_the_threshold() -> None:
    """Behavior: first value at the left, last at the right, least at the foot; null is a gap, never a point."""
    drawn = plot([90.0, 92.0, None, 100.0], 95.0)
    first, second = drawn.stretches
    assert first.startswith(f"{MARGIN},{HEIGHT - MARGIN} ")
    assert f"{WIDTH - MARGIN},{MARGIN}" == second
    assert (WIDTH - MARGIN, MARGIN) == drawn.last
    assert HEIGHT / 2 == drawn.threshold
    assert "3 of 4 verdicts, 90 to 100" == drawn.label
    assert plot([1.0, 2.0], 95.0).threshold is None
    assert ([], None, "not measured") == (plot([None], 1.0).stretches, plot([None], 1.0).last, plot([None], 1.0).label)


def test_the_page_shows_each_check_and_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: answer, values, escaped commands, and a plot once there are two verdicts."""
    monkeypatch.chdir(tmp_path)
    red = Verdict("t", (replace(CHECK, value=90.0, state="red", exit_code=1, detail="a.py: 3"),))
    history.append(red)
    assert "<svg" not in render_page(red)
    history.append(Verdict("t", (CHECK,)))
    page = render_page(red)
    assert all(part in page for part in ("t RED: a.lines", "make &lt;a&gt;", "a.py: 3", "Next: more tests"))
    assert "2 of 2 verdicts, 90 to 97" in page
    assert 1 == page.count("<polyline")
    assert "src=" not in page
