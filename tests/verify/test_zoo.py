"""The zoo: a row for everything in a library, red where a check is, with a script that needs nothing of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from andon.cli import zoo
from andon.verify.errors import SubjectError
from andon.verify.run.report import Finding
from andon.verify.zoo import sweep
from andon.verify.zoo.scripts import LONGEST, TEMPLATES, script
from tests.verify.small import small

ROOT = Path(__file__).parents[2]
STUB = "tests.verify.stub_zoo"


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as its reader would, beside the stub library."""
    file = folder / "script.py"
    file.write_text(code, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(file)], check=False, capture_output=True, text=True, env=environment, cwd=folder
    )


@pytest.fixture(scope="module")
def rows() -> dict[str, sweep.Row]:
    """The stub's rows."""
    return {row.name: row for row in sweep.sweep(STUB, sweep.chosen(STUB), limit=15.0, workers=2)}


@pytest.mark.long
def test_each_model_has_a_row(rows: dict[str, sweep.Row]) -> None:
    """Behavior: the right one is green, the wrong one red, and what cannot be built or takes too long says why."""
    assert {"right", "ahead", "broken", "slow"} == set(rows)
    assert ({}, "green") == (rows["right"].red, rows["right"].areas["attention"])
    assert "attention.causality" in rows["ahead"].red
    assert "red" == rows["ahead"].areas["attention"]
    assert "heads=7 does not divide width=16" in rows["broken"].reason
    assert "longer than 15 s" in rows["slow"].reason
    table = sweep.table([*rows.values()])
    assert "could not build: ValueError: heads=7" in table
    assert "RED" in next(line for line in table.splitlines() if line.startswith("ahead"))
    assert sweep.summary([*rows.values()]).startswith("2 of 4 built")


@pytest.mark.long
def test_a_red_cell_s_script_shows_the_fault_and_is_quiet_without_it(
    rows: dict[str, sweep.Row], tmp_path: Path
) -> None:
    """Behavior: a script is short, imports none of ours, ends with 1 on a faulty model and with 0 on a right one."""
    text = rows["ahead"].red["attention.causality"].script
    assert len(text.splitlines()) <= LONGEST
    assert "verify" not in text.replace("tests.verify.stub_library", "")
    assert "unused" not in text
    wrong, right = run(text, tmp_path), run(text.replace("'ahead'", "'right'"), tmp_path)
    assert (1, "") == (wrong.returncode, wrong.stderr)
    assert "later tokens move earlier logits" in wrong.stdout
    assert (0, "") == (right.returncode, right.stderr)


@pytest.mark.long
def test_a_sweep_is_resumed_and_told_as_json(rows: dict[str, sweep.Row], tmp_path: Path) -> None:
    """Behavior: what an earlier sweep has is not run again; rows come as JSON lines; red ends with exit code 1."""
    file = tmp_path / "reports" / "zoo" / sweep.release(STUB) / "rows.jsonl"
    for row in rows.values():
        sweep.write(file, row)
    assert [*rows.values()] == sweep.read(file)
    command = [sys.executable, "-m", "andon", "zoo", STUB, "--resume", "--only", "[ar]*", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (1, "") == (done.returncode, done.stderr), done.stderr
    assert ["right", "ahead"] == [json.loads(line)["name"] for line in done.stdout.splitlines()]


@pytest.mark.long
def test_a_sweep_of_some_names_is_a_table_with_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: names are listed or refused; what is red ends the table with its numbers and the script it left."""
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(zoo.command, [STUB, "--list"])
    assert (0, {"right", "ahead", "broken", "slow"}) == (listed.exit_code, set(listed.output.split()))
    assert 2 == CliRunner().invoke(zoo.command, [STUB, "--only", "cow"]).exit_code
    done = CliRunner().invoke(zoo.command, [STUB, "--only", "ahead"])
    assert (1, True) == (done.exit_code, "RED ahead: attention.causality" in done.output), done.output
    assert [*Path("reports/zoo").rglob("scripts/ahead-attention.causality.py")]
    broken = CliRunner().invoke(zoo.command, [STUB, "--only", "broken"])
    assert (3, True) == (broken.exit_code, "could not build" in broken.output)


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("parts", "reason", "state"),
    [
        ({"loss": lambda *_: 3}, "returned int, not a tensor", ""),
        ({"logits": lambda *_: 1 / 0}, "", sweep.ABSENT),
        ({}, "", sweep.GREEN),
    ],
    ids=["no loss", "no logits", "whole"],
)
def test_a_model_that_cannot_be_run_is_not_red(
    parts: dict[str, Any], reason: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: a subject that fails says why; a check that fails on it has no verdict; one that passes is green."""
    stub: Any = ModuleType("stub_of_one")
    stub.CHECKS, stub.subject = ("loss.definition",), lambda _: small(**parts)
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    row = sweep.run_checks(None, sweep.Job(stub.__name__, "one", 60.0, 2))
    assert reason in row.reason
    assert bool(reason) == bool(row.reason)
    assert [state] * bool(state) == [cell.state for cell in row.cells.values()]


@pytest.mark.tier2
def test_templates_compile_and_are_short_enough() -> None:
    """Behavior: every template makes a script that Python can read, beside a preamble of the usual length."""
    preamble = "import torch\n\ntorch.manual_seed(0)\nVOCABULARY = 9\n\n\ndef build(**changes):\n    pass\n\n\n"
    for check, words, _ in TEMPLATES:
        name = check + "again" if check.endswith(".") else check
        said = f"{words} with hidden_act='relu' shapes, first weights" if "shapes" in words else words
        text = script(Finding(name, said or "1"), preamble, "a.b", "c")
        compile(text, name, "exec")
        assert len(text.splitlines()) <= LONGEST, name


@pytest.mark.tier2
def test_what_no_template_fits_names_the_command() -> None:
    """Behavior: a finding without a template gives its numbers, and the call that finds it again."""
    text = script(Finding("norms.unit", "rms 0.5"), "", "andon.verify.zoo.adapter_types", "LORA/gpt2")
    assert "rms 0.5" in text
    assert "from andon.verify.zoo.adapter_types import subject" in text
    assert "subject('LORA/gpt2')" in text


@pytest.mark.tier2
def test_an_unknown_library_is_refused() -> None:
    """Behavior: a library without a zoo is named, with those that have one."""
    with pytest.raises(SubjectError, match="no zoo for 'jax'; there are transformers, peft, bitsandbytes"):
        sweep.zoo("jax")
