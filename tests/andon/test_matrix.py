"""The matrix of injected faults is counted and shown as it is."""

import json
import re

import pytest

from andon.verify.faults.rows import as_json, counts, from_json
from andon.workshop import matrix
from tests.fault_rows import ROWS


@pytest.mark.tier1
def test_counts_tell_apart_who_found_it() -> None:
    """Behavior: found by checks, by parity alone and by a unit test alone are counted apart; errors are not live."""
    found = counts(ROWS)
    assert (5, 4, 3, 1, 1, 1, 1, 1) == tuple(
        found[key]
        for key in (
            "injected",
            "live",
            "found",
            "found_by_check",
            "found_by_parity",
            "found_by_unit_test",
            "unfound",
            "errors",
        )
    )
    assert "historical: 1 of 2 found" in matrix.summary(ROWS)
    assert [*ROWS] == from_json(json.loads(as_json(ROWS, {})))
    assert ["all", "4", "1", "1", "1", "1"] == matrix.by_area(ROWS)[-1]


@pytest.mark.tier1
def test_lines_fit_a_terminal_and_unfound_ones_say_what_differs() -> None:
    """Behavior: at most 100 columns; more checks than one are counted."""
    lines = [line for row in ROWS for line in matrix.line(row).splitlines()]
    assert 100 >= max(map(len, lines))
    assert "shapes.count +1" in lines[0]
    assert any("differs in loss" in line for line in lines)


@pytest.mark.tier1
def test_the_picture_escapes_what_it_shows() -> None:
    """Behavior: the page holds every fault, no script, and no text as markup."""
    page = matrix.picture(ROWS)
    assert page.count("<svg viewBox") == 1
    drawn = page[page.index("<svg viewBox") :]
    classes = re.findall(r'<a href="#(.)"><rect class="(\w+)"', drawn)
    assert [("a", "check"), ("b", "parity"), ("c", "test"), ("d", "unfound"), ("e", "error")] == classes
    assert all(f".{name} {{ fill: " in page for _, name in classes)
    assert "<script>" not in page
    assert all(f'id="{row.fault}"' in page for row in ROWS)
