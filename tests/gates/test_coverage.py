"""The coverage measure: lines apart from branches, by file."""

import json
import os
from pathlib import Path

import pytest

from andon.gates.evidence import Metric, read_evidence
from andon.gates.measures.coverage import coverage_metrics, main


def summary(lines: tuple[int, int], branches: tuple[int, int]) -> dict[str, int]:
    """The part of coverage's report that counts (covered, all)."""
    names = ("covered_lines", "num_statements", "covered_branches", "num_branches")
    return dict(zip(names, (*lines, *branches), strict=True))


@pytest.mark.tier1
def test_lines_and_branches_are_metrics_apart() -> None:
    """Behavior: 100% of lines with half of the branches is not 100%; a file without branches has null there."""
    report = {
        "totals": summary((30, 40), (1, 2)),
        "files": {
            "core/a.py": {"summary": summary((10, 10), (1, 2))},
            "core/b.py": {"summary": summary((20, 30), (0, 0))},
        },
    }
    expected = {"lines": 75, "branches": 50, "lines core/a.py": 100, "branches core/a.py": 50}
    metrics = coverage_metrics(report)
    assert expected == {name: metrics[name].value for name in expected}
    assert Metric(None, "%") == metrics["branches core/b.py"]


AWAY = """import multiprocessing
from core.a import f

def test_f(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=f, args=(0,))
    process.start()
    process.join()
    assert process.exitcode == 0
"""


@pytest.mark.long
def test_a_process_in_another_folder_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what a test's own process runs counts wherever it runs."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "a.py").write_text("def f(x):\n    if x:\n        return 1\n    return 2\n")
    settings = '[tool.coverage.run]\nsource = ["core"]\nparallel = true\nconcurrency = ["multiprocessing"]\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "test_a.py").write_text(AWAY)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PYTHONPATH", "COVERAGE"))]:
        monkeypatch.delenv(name)
    assert 0 == main(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
    assert 75 == read_evidence("coverage").metrics["lines"].value


@pytest.mark.tier3
@pytest.mark.parametrize("parallel", ["false", "true"])
def test_measures_a_real_run_and_passes_its_exit_code_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallel: str
) -> None:
    """Behavior: evidence holds the figures of the run just made, and a failing test is still a failure."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "a.py").write_text("def f(x):\n    if x:\n        return 1\n    return 2\n")
    settings = f'[tool.coverage.run]\nbranch = true\nsource = ["core"]\nparallel = {parallel}\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    (tmp_path / "test_a.py").write_text("from core.a import f\n\ndef test_f():\n    assert f(1) == 2\n")
    monkeypatch.chdir(tmp_path)
    # The path may name our own core, and who measures this test has settings of its own.
    for name in [name for name in os.environ if name.startswith(("PYTHONPATH", "COVERAGE"))]:
        monkeypatch.delenv(name)
    assert 1 == main(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
    evidence = read_evidence("coverage", tmp_path / "reports" / "evidence")
    assert (75.0, 50.0) == (evidence.metrics["lines"].value, evidence.metrics["branches core/a.py"].value)
    assert {"core", "tests"} == set(evidence.sources)
    assert json.dumps(evidence.command).startswith('"python -m andon.gates.measures.coverage -m pytest')
    (tmp_path / "idle.py").touch()
    evidence_file = tmp_path / "reports" / "evidence" / "coverage.json"
    evidence_file.unlink()
    assert 3 == main(["--source=nowhere", "idle.py"])  # ran well, and there is nothing to report
    assert not evidence_file.exists()
