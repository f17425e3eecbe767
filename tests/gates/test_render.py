"""A verdict's three forms say the same: the answer first, then all that a person needs to act."""

import json
from pathlib import Path

import pytest

from gates.judge import judge
from gates.render import WIDTH, render_json, render_markdown, render_text
from gates.verdict import Verdict
from tests.gates.house import COMMAND, gates_with, leave_clock, leave_evidence

pytestmark = pytest.mark.tier1


@pytest.fixture
def red(tmp_path: Path) -> Verdict:
    """A red measure with long output and markup in it, beside a red threshold and a budget that holds."""
    leave_evidence(tmp_path, lines=50.0, exit_code=1)
    leave_clock(tmp_path)
    (tmp_path / "probe.log").write_text(f"E   assert 1 == 2 | ```x``` {'long ' * 60}\nFAILED tests/test_a.py::test_b\n")
    return judge("strict", gates_with(), tmp_path)


def test_text_answers_first_and_fits(red: Verdict) -> None:
    """Behaviour: the first line answers; what failed, the command and the next step follow, within 100 columns."""
    text = render_text(red)
    assert "strict RED: probe, probe.lines (1 of 3 checks pass)" == text.splitlines()[0]
    assert all(
        part in text for part in ("FAILED tests/test_a.py::test_b", f"reproduce  {COMMAND}", "next       mend the")
    )
    assert "RED probe.lines: 50 % (must be >= 90)" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_quiet_text_keeps_the_answer_and_what_is_red(red: Verdict) -> None:
    """Behaviour: quiet leaves out the table, not the findings."""
    text = render_text(red, quiet=True)
    assert text.startswith(red.headline)
    assert "RED probe: " in text
    assert "budget" not in text


def test_a_pass_shows_both_clocks(tmp_path: Path) -> None:
    """Behaviour: wall and CPU stand beside the budget also when all is well."""
    leave_evidence(tmp_path)
    leave_clock(tmp_path)
    text = render_text(judge("strict", gates_with(), tmp_path))
    assert text.startswith("strict PASS: all (3 of 3 checks pass)\n")
    assert "wall 20.0 s, CPU 25.0 s, budget 30 s" in text


def test_markdown_survives_markup_in_output(red: Verdict) -> None:
    """Behaviour: backticks in a tool's output cannot close the block that holds it, nor a bar end a table's cell."""
    markdown = render_markdown(red)
    assert markdown.startswith("## strict RED")
    assert "````text\nE   assert 1 == 2 | ```x```" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {6} == {line.count("|") - line.count("\\|") for line in rows}


def test_json_holds_every_field(red: Verdict) -> None:
    """Behaviour: a program reads the answer, the exit code and each check without parsing prose."""
    content = json.loads(render_json(red))
    assert ("strict", "RED", 1) == (content["tier"], content["answer"], content["exit_code"])
    lines = next(check for check in content["checks"] if check["name"] == "probe.lines")
    assert (50.0, ">=", 90.0, "red") == tuple(lines[key] for key in ("value", "operator", "threshold", "state"))
