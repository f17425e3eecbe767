"""`python -m tests.faults`: the catalogue in our own core, and what is kept of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from andon.gates.evidence import read_evidence
from andon.verify.faults.rows import FOUND, UNFOUND
from tests.fault_rows import ROWS
from tests.faults import __main__ as command
from tests.faults.catalogue import ELSEWHERE

ROOT = Path(__file__).parents[2]


@pytest.mark.tier2
def test_the_whole_catalogue_is_kept_beside_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a whole run writes the baseline, with what cannot be injected, and its tables; a part compares."""
    monkeypatch.chdir(tmp_path)
    rewritten: list[bool] = []
    monkeypatch.setattr(command.tables, "rewrite_pages", lambda: rewritten.append(True))
    command.keep(ROWS, {}, 5.0, whole=True)
    assert ELSEWHERE == json.loads(command.tables.FAULTS.read_text(encoding="utf-8"))["elsewhere"]
    command.keep([replace(ROWS[0], state=UNFOUND)], {}, 1.0, whole=False)
    assert [True] == rewritten
    metrics = read_evidence("faults").metrics
    assert (1, 4, 0.25) == tuple(
        metrics[name].value for name in ("disagreeing_with_committed", "catalogue_live", "catalogue_found_by_checks")
    )


@pytest.mark.tier2
def test_without_a_committed_matrix_nothing_is_claimed_of_the_catalogue() -> None:
    """Behavior: null, which no threshold passes."""
    found = command.metrics(ROWS, [], 1.0)
    names = ("catalogue_live", "catalogue_unfound", "catalogue_found_by_checks")
    assert [None] * 3 == [found[name].value for name in names]


@pytest.mark.tier2
@pytest.mark.parametrize(("arguments", "whole"), [([], True), (["--sample", "9"], False), (["--only", "rope"], False)])
def test_only_a_whole_run_rewrites_the_baseline(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], whole: bool
) -> None:
    """Behavior: a sample and a selection are parts, and are only compared."""
    kept: list[bool] = []
    monkeypatch.setattr(command, "evaluated", lambda target, faults, options: ROWS[:1])
    monkeypatch.setattr(command, "keep", lambda rows, sources, seconds, *, whole: kept.append(whole))
    assert 0 == CliRunner().invoke(command.main, arguments).exit_code
    assert [whole] == kept
    assert 2 == CliRunner().invoke(command.main, ["--sample", "0"]).exit_code


@pytest.mark.long
def test_two_faults_are_injected_and_found(tmp_path: Path) -> None:
    """Behavior: a doubled residual and a skipped layer are live and found; evidence is left, and no baseline."""
    command = [sys.executable, "-m", "tests.faults", "--only", "block", "--json", "--html", "faults.html"]
    done = subprocess.run(
        command, cwd=tmp_path, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    assert {"block-residual-twice": FOUND, "block-last-layer-skipped": FOUND} == {
        row["fault"]: row["state"] for row in rows
    }
    evidence = json.loads((tmp_path / "reports" / "evidence" / "faults.json").read_text(encoding="utf-8"))
    assert 2 == evidence["metrics"]["found"]["value"]
    assert not (tmp_path / "reports" / "baselines").exists()
    assert "block-residual-twice" in (tmp_path / "faults.html").read_text(encoding="utf-8")
