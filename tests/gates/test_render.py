"""A verdict's three forms say the same: the answer first, then all that a person needs to act."""

import json
from pathlib import Path

import pytest

from andon.gates.judge import judge
from andon.gates.report.render import WIDTH, render_json, render_markdown, render_text
from andon.gates.report.sarif import render_sarif
from andon.gates.verdict import Verdict
from tests.gates.small_project import COMMAND, gates_with, leave_clock, leave_evidence

pytestmark = pytest.mark.tier1


@pytest.fixture
def red(tmp_path: Path) -> Verdict:
    """A red measure with long output and markup in it, beside a red threshold and a budget that holds."""
    leave_evidence(tmp_path, lines=50.0, exit_code=1)
    leave_clock(tmp_path)
    (tmp_path / "probe.log").write_text(f"E   assert 1 == 2 | ```x``` {'long ' * 60}\nFAILED tests/test_a.py::test_b\n")
    return judge("strict", gates_with(), tmp_path)


def test_text_answers_first_and_fits(red: Verdict) -> None:
    """Behavior: the first line answers; what failed, the command and the next step follow, within 100 columns."""
    text = render_text(red)
    assert "strict RED: probe, probe.lines (1 of 3 checks pass)" == text.splitlines()[0]
    assert all(
        part in text for part in ("FAILED tests/test_a.py::test_b", f"reproduce  {COMMAND}", "next       mend the")
    )
    assert "RED probe.lines: 50 % (must be >= 90)" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_no_value_is_said_in_words(tmp_path: Path) -> None:
    """Behavior: what has no value is "not measured", with the bound that it must meet; no form says null of it."""
    verdict = judge("strict", gates_with(), tmp_path)
    text = render_text(verdict)
    assert "RED probe: not measured (must be == 0)" in text
    assert "RED probe.lines: not measured (must be >= 90)" in text
    assert "null" not in text + render_markdown(verdict)


def test_quiet_text_keeps_the_answer_and_what_is_red(red: Verdict) -> None:
    """Behavior: quiet leaves out the table, not the findings."""
    text = render_text(red, quiet=True)
    assert text.startswith(red.headline)
    assert "RED probe: " in text
    assert "budget" not in text


def test_a_pass_shows_both_clocks(tmp_path: Path) -> None:
    """Behavior: wall and CPU stand beside the budget also when all is well."""
    leave_evidence(tmp_path)
    leave_clock(tmp_path)
    text = render_text(judge("strict", gates_with(), tmp_path))
    assert text.startswith("strict PASS: all (3 of 3 checks pass)\n")
    assert "wall 20.0 s, CPU 25.0 s, budget 30 s" in text


def test_markdown_survives_markup_in_output(red: Verdict) -> None:
    """Behavior: backticks in a tool's output cannot close the block that holds it, nor a bar end a table's cell."""
    markdown = render_markdown(red)
    assert markdown.startswith("## strict RED")
    assert "````text\nE   assert 1 == 2 | ```x```" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {6} == {line.count("|") - line.count("\\|") for line in rows}


def test_json_holds_every_field(red: Verdict) -> None:
    """Behavior: a program reads the answer, the exit code and each check without parsing prose."""
    content = json.loads(render_json(red))
    assert ("strict", "RED", 1) == (content["tier"], content["answer"], content["exit_code"])
    lines = next(check for check in content["checks"] if check["name"] == "probe.lines")
    assert (50.0, ">=", 90.0, "red") == tuple(lines[key] for key in ("value", "operator", "threshold", "state"))


def test_sarif_says_the_same_at_the_places_that_the_output_names(red: Verdict, tmp_path: Path) -> None:
    """Behavior: a result a check, its kind by state; a named file and line is its place, else the gates file."""
    here = Path(__file__).relative_to(Path.cwd())
    (tmp_path / "probe.log").write_text(f"{here}:7:3: E1 no\n./{here}:7:3: E1 no\nabsent.py:1: no\n{here}:0: no\n")
    verdict = judge("strict", gates_with(), tmp_path)
    run = json.loads(render_sarif(verdict, Path("configs/gates.toml")))["runs"][0]
    assert [check.name for check in verdict.checks] == [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert [("fail", "error"), ("fail", "error"), ("pass", "none")] == [
        (each["kind"], each["level"]) for each in run["results"]
    ]
    places = [[place["physicalLocation"] for place in each["locations"]] for each in run["results"]]
    file = {"artifactLocation": {"uri": str(here)}}
    assert [file | {"region": {"startLine": 7, "startColumn": 3}}, file] == places[0]
    assert [{"artifactLocation": {"uri": "configs/gates.toml"}}] == places[1]
    assert red.headline == run["invocations"][0]["exitCodeDescription"]
    assert "must be >= 90" in run["results"][1]["message"]["text"]


def test_every_form_names_what_was_measured(tmp_path: Path) -> None:
    """Behavior: a check that is red says on which files and folders."""
    leave_evidence(tmp_path, lines=50.0, sources={str(tmp_path / "absent.py"): "absent"})
    verdict = judge("loose", gates_with(), tmp_path)
    assert f"measured   {tmp_path}" in render_text(verdict)
    assert f"Measured: {tmp_path}" in render_markdown(verdict)
    assert [str(tmp_path / "absent.py")] == json.loads(render_json(verdict))["checks"][1]["sources"]


def test_a_budget_names_the_measures_beyond_their_own(tmp_path: Path) -> None:
    """Behavior: where the tier is late, its next step is the measure that took more than its share."""
    gates = gates_with()
    slow = gates.measures[0].model_copy(update={"budget_seconds": 1.0})
    leave_evidence(tmp_path)
    leave_clock(tmp_path, wall=31.0)
    verdict = judge("strict", gates.model_copy(update={"measures": [slow]}), tmp_path)
    assert "beyond their own budgets: probe (1.5 s of its 1)" == verdict.checks[-1].next_step
