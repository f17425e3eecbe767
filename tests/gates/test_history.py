"""History: verdicts by commit, trends that fit a terminal, what two commits differ in; a shallow clone knows none."""

from dataclasses import replace
from pathlib import Path

import pytest

from andon.gates import commits
from andon.gates.report import history
from andon.gates.verdict import Check, Verdict
from tests.commands import git

pytestmark = pytest.mark.tier3

LINES = Check(
    "coverage.lines", "make cov", None, 97.0, "%", ">=", 95, "w", "n", "pass", exit_code=0, sources=("core", "tests")
)
UNIT = Check("unit", "pytest", 2.0, 0, "exit code", "==", 0, "w", "n", "pass", exit_code=0, sources=("core",))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", ".")
    (tmp_path / ".gitignore").write_text("reports/\n")
    commit("core/a.py", "a = 1\n")
    return tmp_path


def commit(path: str, text: str) -> str:
    """Write a file and commit it; returns the commit."""
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)
    git("add", "-A")
    git("commit", "-qm", "m")
    return git("rev-parse", "HEAD")


@pytest.mark.usefixtures("repository")
def test_each_verdict_is_kept_once_with_its_commit() -> None:
    """Behavior: the same verdict again is not news; another value, or an edited file, is."""
    history.append(Verdict("t", (LINES,)))
    history.append(Verdict("t", (LINES,)))
    history.append(Verdict("t", (replace(LINES, value=96.0),)))
    Path("core/a.py").write_text("a = 2\n")
    history.append(Verdict("t", (replace(LINES, value=96.0),)))
    entries = history.read()
    assert [False, False, True] == [entry["changed"] for entry in entries]
    assert {git("rev-parse", "HEAD")} == {entry["commit"] for entry in entries}
    assert [97.0, 96.0, 96.0] == history.values(entries, "coverage.lines")


@pytest.mark.usefixtures("repository")
def test_trends_fit_100_columns() -> None:
    """Behavior: newest answer first, then each check with its first and last value and a bar for each between."""
    for value in (90.0, 92.0, None, 97.0):
        long = replace(LINES, name="coverage." + "x" * 90)
        history.append(Verdict("t", (replace(LINES, value=value), replace(UNIT, seconds=value), long)))
    text = history.render_trends(history.read())
    first, _, lines, unit, _ = text.splitlines()
    assert first.startswith("t PASS at ")
    assert "▁▃·█" in lines
    assert "90 to 97 s" in history.render_trends([only(entry, "unit") for entry in history.read()])
    assert "unit" in unit
    assert max(map(len, text.splitlines())) <= 100


def only(entry: history.Entry, name: str) -> history.Entry:
    """The entry with one check."""
    return entry | {"checks": {name: entry["checks"][name]}}


def test_nothing_kept_says_how_to_keep_something(tmp_path: Path) -> None:
    """Behavior: an empty history is a message with the next step, a broken line is named."""
    with pytest.raises(history.HistoryError, match="andon gate run TIER"):
        history.render_trends(history.read(tmp_path / "absent.jsonl"))
    (tmp_path / "h.jsonl").write_text("{}\n")
    with pytest.raises(history.HistoryError, match=r"h\.jsonl line 1"):
        history.read(tmp_path / "h.jsonl")
    (tmp_path / "h.jsonl").write_text('{"tier": "t')
    assert [] == history.read(tmp_path / "h.jsonl")


def two_commits() -> tuple[str, str]:
    """Verdicts of two commits: coverage falls and is red, a test run takes twice as long, another file changes."""
    history.append(Verdict("t", (LINES, UNIT)))
    first = git("rev-parse", "HEAD")
    last = commit("core/b.py", "b = 1\n")
    red = replace(LINES, value=80.0, state="red", exit_code=1, detail="core/b.py: 0")
    history.append(Verdict("t", (red, replace(UNIT, seconds=4.0))))
    return first, last


@pytest.mark.usefixtures("repository")
def test_two_commits_differ_in_checks_and_where() -> None:
    """Behavior: each check that changed, its values, what was found, the files that changed among its sources."""
    first, last = two_commits()
    text, whole = history.compare(history.read(), first, last)
    assert whole
    assert "t: PASS to RED" in text
    assert "coverage.lines: pass to red, 97 to 80 %" in text
    assert "found  core/b.py: 0" in text
    assert "where  core/b.py" in text
    assert "unit: pass to pass, 0 to 0 exit code, 2.0 s to 4.0 s" in text
    assert "nothing changed" in history.compare(history.read(), first, first)[0]


@pytest.mark.usefixtures("repository")
def test_a_check_of_one_commit_alone_is_new_or_removed() -> None:
    """Behavior: it is named without a comparison; where neither was judged, the next step is said."""
    history.append(Verdict("t", (LINES,)))
    first, last = git("rev-parse", "HEAD"), commit("core/b.py", "b = 1\n")
    history.append(Verdict("t", (UNIT,)))
    text, whole = history.compare(history.read(), first, last)
    assert (True, ["  coverage.lines: removed", "  unit: new"]) == (whole, text.splitlines()[-2:])
    nothing, whole = history.compare([], first, last)
    assert (False, True) == (whole, "is empty; `andon gate run TIER` at both commits" in nothing)


def test_without_git_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: there is no commit, and none can be named."""
    assert commits.head()
    monkeypatch.setenv("PATH", "")
    assert commits.head() is None
    with pytest.raises(commits.CommitError, match="HEAD: no such commit"):
        commits.resolve("HEAD")


@pytest.mark.usefixtures("repository")
def test_a_commit_that_was_not_judged_is_not_measured() -> None:
    """Behavior: a verdict among changes belongs to no commit, and what is missing is said with its command."""
    first, last = two_commits()
    changed = [entry | {"changed": entry["commit"] == last} for entry in history.read()]
    text, whole = history.compare(changed, first, last)
    assert not whole
    assert f"t: not measured at {last[:9]}; `andon gate run t` there" in text
    with pytest.raises(commits.CommitError, match="no such commit"):
        commits.resolve("absent")


@pytest.mark.usefixtures("repository")
def test_a_shallow_clone_says_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: where older commits are missing, their number and files are not guessed at."""
    first, last = two_commits()
    entries = history.read()
    assert "1 commits" == commits.between(first, last)
    git("clone", "-q", "--depth", "1", f"file://{tmp_path}", str(tmp_path / "shallow"))
    monkeypatch.chdir(tmp_path / "shallow")
    assert "not measured: a shallow clone" in history.compare(entries, first, last)[0]
    assert not history.compare(entries, first, last)[1]
    assert "not measured: a shallow clone" in history.render_trends(entries)
    with pytest.raises(commits.CommitError, match="not measured: a shallow clone"):
        commits.resolve(first[:7])
