"""Every red cell of the committed sweep is judged, and every judgment is of a red cell."""

import json
from pathlib import Path

import pytest

from tests.zoo.__main__ import open_cells, scripts
from tests.zoo.triage import FILE, verdict, verdicts

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "reports" / "baselines" / "zoo.json"
TEXT = """\
## Zoo: peft 0.21.2

| checks | animals | measured | label | why |
| --- | --- | --- | --- | --- |
| adapters.merge | LORA/*, IA3/gpt2 | moves logits | by design | it says "no merging" |

## Other

| adapters.file | LORA/gpt2 | elsewhere | nonsense | - |
"""


def red(name: str, check: str) -> dict:
    """A baseline of one library with one red cell."""
    return {"peft": {"red": [{"name": name, "check": check, "message": ""}]}}


@pytest.mark.tier2
def test_each_red_cell_of_the_committed_sweep_is_judged() -> None:
    """Behavior: no red cell of the baseline is without a row that says what we hold it to be."""
    text = (ROOT / FILE).read_text(encoding="utf-8")
    assert [] == open_cells(json.loads(ZOO.read_text(encoding="utf-8")), text)


@pytest.mark.tier2
def test_each_judgment_is_of_red_cells_and_is_argued() -> None:
    """Behavior: each name and each check of a row is red in the baseline; "by design" quotes the library."""
    content = json.loads(ZOO.read_text(encoding="utf-8"))
    for row in verdicts((ROOT / FILE).read_text(encoding="utf-8")):
        parts = [row._replace(names=(name,)) for name in row.names]
        parts += [row._replace(checks=(check,)) for check in row.checks]
        cells = content[row.package]["red"]
        for alone in parts:
            assert any(alone.covers(row.package, cell["check"], cell["name"]) for cell in cells), alone
        assert row.label != "by design" or '"' in row.why, row


@pytest.mark.tier2
def test_a_cell_that_no_row_covers_is_open() -> None:
    """Behavior: a row covers its own check, package and names alone; tables under other headings are not read."""
    known = verdicts(TEXT)
    assert "by design" == getattr(verdict(known, "peft", "adapters.merge", "LORA/llama"), "label", None)
    assert [] == open_cells(red("IA3/gpt2", "adapters.merge"), TEXT)
    assert [("peft", "IA3/llama", "adapters.merge")] == open_cells(red("IA3/llama", "adapters.merge"), TEXT)
    assert [("peft", "LORA/gpt2", "adapters.file")] == open_cells(red("LORA/gpt2", "adapters.file"), TEXT)


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [("by design", "tolerance", "no such label: 'tolerance'"), (" | by design", "", "has 4 columns, not 5")],
)
def test_a_row_that_says_nothing_is_refused(before: str, after: str, said: str) -> None:
    """Behavior: a label that is none, and a row without one, are errors and not silence."""
    with pytest.raises(ValueError, match=said):
        verdicts(TEXT.replace(before, after))


@pytest.mark.tier2
@pytest.mark.parametrize(("text", "kept"), [("import peft\n", 1), ("from andon import verify\n", 0)])
def test_a_script_of_a_new_bug_is_kept_and_needs_no_andon(text: str, kept: int) -> None:
    """Behavior: the script of a bug without a known report has a committed file; one that imports Andon is refused."""
    judged = TEXT.replace("by design", "bug, no report known")
    rows = {"peft": [{"name": "LORA/gpt2", "cells": {"adapters.merge": {"state": "red", "script": text}}}]}
    if kept:
        assert [text] == list(scripts(rows, judged).values())
        assert {} == scripts(rows, TEXT)
    else:
        with pytest.raises(ValueError, match="add a template"):
            scripts(rows, judged)
