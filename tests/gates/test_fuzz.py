"""The fuzz measure: crashes are found and kept, feedback is required, and executions are summed over runs."""

import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from andon.gates.evidence import read_evidence
from andon.gates.measures import fuzz
from andon.gates.measures.fuzz import Run, branch_share, places, read_ledger, record, run_metrics
from andon.source import definitions

ROOT = Path(__file__).parents[2]
MODULE = """
def parse(data):
    if len(data) > 3 and data[0] == 0x41:
        if data[1] == 0x6E:
            if data[2] == 0x64:
                return 1 // (data[3] - 0x6F)
    raise ValueError("no")
"""
TARGET = (
    "import parser_module\nREFUSALS = (ValueError,)\nPARSER = {parser_module: ('parse',)}\none = parser_module.parse\n"
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one target, whose parser divides by zero where the input begins with Ando; its name."""
    name = f"target{time.monotonic_ns()}"
    seeds = tmp_path / name / "seeds" / "target"
    seeds.mkdir(parents=True)
    (seeds / "one").write_bytes(b"Axxx")
    (tmp_path / "parser_module.py").write_text(MODULE)
    (tmp_path / name / "target.py").write_text(TARGET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "parser_module", raising=False)
    return name


@pytest.mark.long
def test_an_injected_crash_is_found_and_becomes_a_seed(package: str, tmp_path: Path) -> None:
    """Behavior: within 60 s; the input is kept, and replaying it is red until the parser is fixed."""
    assert 0 == fuzz.main([package, "--replay"])
    start = time.monotonic()
    assert 1 == fuzz.main(
        [package, "--seconds", "60", "--instrument", "parser_module", "--record", "--ledger", "ledger.json"]
    )
    assert time.monotonic() - start < 60
    assert (1, 0) == tuple(
        read_evidence("fuzz", tmp_path / "reports" / "evidence").metrics[name].value for name in ("crashes", "blind")
    )
    (crash,) = (tmp_path / package / "seeds" / "target").glob("found-crash-*")
    assert crash.read_bytes().startswith(b"Ando")
    assert 1 == read_ledger(tmp_path / "ledger.json")[0]["crashes"]
    assert 1 == fuzz.main([package, "--replay"])


@pytest.mark.long
def test_a_target_without_feedback_is_an_error(package: str, tmp_path: Path) -> None:
    """Behavior: where the parser is not instrumented, a run without a crash is red."""
    assert 1 == fuzz.main([package, "--seconds", "2", "--instrument", "nothing", "--branches"])
    metrics = read_evidence("fuzz", tmp_path / "reports" / "evidence").metrics
    assert (0, 1) == (metrics["crashes"].value, metrics["blind"].value)
    # Of three ifs the seed takes the first, and not the second.
    assert pytest.approx(100 * 2 / 6) == metrics["branches target"].value == metrics["least_branches"].value


@pytest.mark.tier2
def test_without_the_fuzzer_nothing_is_measured(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behavior: exit code 3, and a word that says so."""
    monkeypatch.setattr(fuzz, "find_spec", lambda name: None)
    assert 3 == fuzz.main([package])
    assert "not measured: atheris is not installed" in capsys.readouterr().out


@pytest.mark.tier2
def test_executions_are_summed_over_runs_and_the_least_counts(tmp_path: Path) -> None:
    """Behavior: a target that was hardly run is not hidden by another."""
    path = tmp_path / "fuzz.json"
    runs = [Run("a", 600, 1.0, 10, 12, 0, ""), Run("b", 10, 1.0, 9, 9, 0, "")]
    record(path, runs)
    record(path, [Run("a", 500, 1.0, 12, 12, 0, "")])
    metrics = run_metrics(runs, read_ledger(path))
    assert (1100, 10, 10) == tuple(
        metrics[name].value for name in ("executions a", "executions b", "least_executions_on_record")
    )
    assert 2 == metrics["new_edges"].value


@pytest.mark.tier2
@pytest.mark.parametrize("target", fuzz.target_names(ROOT / "tests" / "fuzz"))
def test_a_target_names_functions_that_stand(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: each function of a parser is defined in the module that the target imports, by coverage's own path."""
    monkeypatch.chdir(ROOT)
    for path, _, name in (place.partition(":") for place in places(import_module(f"tests.fuzz.{target}").PARSER)):
        assert name in definitions((ROOT / path).read_text(encoding="utf-8")), f"{path}: {name}"
        assert path.startswith(("core/", "tracing/"))


@pytest.mark.tier2
def test_branches_count_in_the_parsers_functions_alone() -> None:
    """Behavior: what else stands in the file counts for nothing, and an unknown function is an error."""
    summaries = {"f": (3, 4), "g": (0, 10), "h": (5, 6)}
    functions = {
        name: {"summary": {"covered_branches": taken, "num_branches": total}}
        for name, (taken, total) in summaries.items()
    }
    report = {"files": {"a.py": {"functions": functions}}}
    assert 80 == branch_share(report, ["a.py:f", "a.py:h"])
    with pytest.raises(KeyError):
        branch_share(report, ["a.py:gone"])
