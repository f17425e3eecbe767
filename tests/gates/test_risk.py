"""The risk table and changed lines: which files tests reach too little of, and which new lines none reaches."""

from pathlib import Path
from typing import Literal

import pytest

from andon.gates.commits import CommitError
from andon.gates.config import GateError
from andon.gates.evidence import Metric
from andon.gates.measures.changed import changed_coverage, changed_lines
from andon.gates.measures.coverage import main
from andon.gates.measures.risk import read_risks, short_metrics
from tests.commands import git

pytestmark = pytest.mark.tier3

LEVELS = """
[[levels]]
name = "ordinary"
lines = 90
branches = 80
why = "w"
[[levels]]
name = "critical"
lines = 100
branches = 95
why = "w"
"""
FILE = '[[modules]]\nmodules = ["{path}"]\nlevel = "{level}"\nwhy = "w"\n'


def table(folder: Path, text: str) -> Path:
    """A risk table in a folder that is the working directory."""
    (folder / "a.py").write_text("")
    (folder / "risk.toml").write_text(text)
    return Path("risk.toml")


EDGES = [  # lines and branches of the critical a.py, then of the ordinary b.py; who is short
    ((100.0, 95.0), (90.0, 80.0), []),
    ((99.9, 95.0), (90.0, 80.0), ["short a.py"]),
    ((100.0, 94.9), (90.0, 80.0), ["short a.py"]),
    ((100.0, None), (89.9, None), ["short b.py"]),
    ((100.0, 95.0), (90.0, 79.9), ["short b.py"]),
]


@pytest.mark.parametrize(("critical", "ordinary", "short"), EDGES)
def test_minimums_at_their_edges(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    critical: tuple[float, float | None],
    ordinary: tuple[float, float | None],
    short: list[str],
) -> None:
    """Behavior: each file is held to its own level, lines and branches apart; without branches there is no minimum."""
    monkeypatch.chdir(tmp_path)
    risks = read_risks(table(tmp_path, LEVELS + FILE.format(path="a.py", level="critical")))
    measured = {"lines": Metric(50.0), "branches": Metric(50.0)}
    for path, (lines, branches) in (("a.py", critical), ("b.py", ordinary)):
        measured |= {f"lines {path}": Metric(lines), f"branches {path}": Metric(branches)}
    found = short_metrics(measured, risks)
    assert (len(short), ["short", *short]) == (found["short"].value, list(found))


def test_a_named_file_without_a_figure_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a critical file that was not measured counts as reached by nothing."""
    monkeypatch.chdir(tmp_path)
    risks = read_risks(table(tmp_path, LEVELS + FILE.format(path="a.py", level="critical")))
    assert 100 == short_metrics({"lines b.py": Metric(100.0)}, risks)["short a.py"].value


FIGURES = {"early": "lines", "properties": "lines", "gradients": "lines", "mutation": "score_by_file"}


@pytest.mark.parametrize("minimums", FIGURES)
def test_a_row_has_minimums_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minimums: Literal["early", "properties", "gradients", "mutation"]
) -> None:
    """Behavior: what properties, gradient checks or mutants must reach is held at its edge, in that file alone."""
    monkeypatch.chdir(tmp_path)
    row = FILE.format(path="a.py", level="critical") + f"{minimums} = 60\n"
    risks = read_risks(table(tmp_path, LEVELS + row))
    for value, short in ((60.0, 0), (59.9, 1)):
        measured = {f"{FIGURES[minimums]} a.py": Metric(value), f"{FIGURES[minimums]} b.py": Metric(0.0)}
        assert short == short_metrics(measured, risks, minimums)["short"].value


BAD = [
    (FILE.format(path="a.py", level="ordinary"), "levels: Field required"),
    ("levels = []\nmodules = []", "none is named 'ordinary'"),
    (LEVELS + FILE.format(path="a.py", level="high"), "level='high' is none of ordinary, critical"),
    (LEVELS + FILE.format(path="gone.py", level="critical"), "gone.py is not a file"),
    (LEVELS + FILE.format(path="app:gone", level="critical"), "app:gone is not a file below app/"),
    (LEVELS + 2 * FILE.format(path="a.py", level="critical"), "a.py is named twice"),
    (LEVELS.replace("100", "101") + FILE.format(path="a.py", level="critical"), "levels.1.lines"),
    ("levels = [", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_a_table_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    """Behavior: the message names the file, the key and the rule; the command exits 2 and runs nothing."""
    monkeypatch.chdir(tmp_path)
    path = table(tmp_path, text)
    with pytest.raises(GateError) as caught:
        read_risks(path)
    assert says in str(caught.value)
    assert 2 == main(["--risk", "risk.toml", "-m", "pytest"])
    assert says in capsys.readouterr().out


def test_a_module_is_found_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a row by folder and stem holds before and after a move, for figures by path and by name."""
    monkeypatch.chdir(tmp_path)
    text = LEVELS + FILE.format(path="app:b", level="critical") + "mutation = 60\n"
    for place in ("app/b.py", "app/inner/b.py"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).touch()
        risks = read_risks(table(tmp_path, text))
        assert "critical" == risks.level_of(place).name
        assert [place] == list(risks.modules)
        assert f"short {place}" in short_metrics({f"lines {place}": Metric(99.0)}, risks)
        assert 0 == short_metrics({"score_by_file app:b": Metric(60.0)}, risks, "mutation")["short"].value
        Path(place).unlink()


def test_what_runs_elsewhere_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a module of a level without minimums is not part of the figures, and never short."""
    monkeypatch.chdir(tmp_path)
    level = '[[levels]]\nname = "elsewhere"\nlines = 0\nbranches = 0\nwhy = "w"\n'
    risks = read_risks(table(tmp_path, LEVELS + level + FILE.format(path="a.py", level="elsewhere")))
    assert ["a.py"] == risks.left_out()
    assert 0 == short_metrics({}, risks)["short"].value


def test_our_own_table_names_files_that_stand() -> None:
    """Behavior: the committed table is valid and holds what issue and mutation call critical."""
    risks = read_risks()
    assert "critical" == risks.level_of("core/training/loss.py").name
    assert "ordinary" == risks.level_of("andon/cli/demo.py").name


def test_changed_lines_and_which_of_them_no_test_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: edited, added and new files count; statements only; what was there before does not."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    Path("a.py").write_text("a = 1\nb = 2\nc = 3\n")
    git("add", ".")
    git("commit", "-qm", "m")
    Path("a.py").write_text("a = 1\nb = 4\nc = 3\n\nd = 5\n")
    Path("new.py").write_text("e = 1\n")
    Path("b.txt").write_text("e = 1\n")
    git("add", ".")
    changed = changed_lines("HEAD")
    assert {"a.py": {2, 4, 5}, "new.py": {1}} == changed
    reached = {"a.py": ([1, 2], [3, 5]), "new.py": ([1], [])}
    report = {"files": {p: {"executed_lines": run, "missing_lines": not_run} for p, (run, not_run) in reached.items()}}
    assert (100 * 2 / 3, ["a.py:5"]) == changed_coverage(report, changed)
    assert (None, []) == changed_coverage(report, {})
    with pytest.raises(CommitError, match="no such commit"):
        changed_lines("nowhere")
