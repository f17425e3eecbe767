"""The verbs beside run and judge: what they print, with which exit code, and that a mistake is one message."""

import json
import subprocess
from pathlib import Path

import pytest

from gates.evidence import read_evidence
from tests.tuning import andon

pytestmark = pytest.mark.tier3

FILE = """
plants = "plants.toml"
claims = "claims.toml"
[[tiers]]
name = "small"
summary = "s"
[[measures]]
name = "text"
tier = "small"
command = "grep -q good code.txt"
next = "n"
[[thresholds]]
metric = "text.lines"
operator = ">="
value = 3
tier = "small"
why = "w"
"""
PLANT = '[[plants]]\nmeasure = "text"\nfile = "code.txt"\nbefore = "good"\nafter = "{}"\nshows = "text.lines"\n'
CLAIM = '[[claims]]\nsays = "long"\ncommand = "make"\nmetric = "text.lines"\noperator = ">="\nvalue = 3\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a gates file, a plant and a claim; the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "andon.toml").write_text(FILE)
    (tmp_path / "code.txt").write_text("good\n")
    (tmp_path / "plants.toml").write_text(PLANT.format("bad").replace("text.lines", "bad"))
    (tmp_path / "claims.toml").write_text(CLAIM)
    return tmp_path


def test_selftest_says_what_was_not_seen_and_keeps_what_was(project: Path) -> None:
    """Behaviour: a plant that shows nothing fails by name; mended, its row is looked at; --check plants nothing."""
    (project / "code.txt").write_text("good\n")
    failed = andon("gate", "selftest")
    assert 1 == failed.exit_code
    assert "'bad' stands nowhere" in failed.output
    assert "measure text (small)\nnext: andon gate selftest --changed" in failed.output
    (project / "andon.toml").write_text(
        FILE.replace("grep -q good code.txt", "sh -c 'cat code.txt; grep -q good code.txt'")
    )
    mended = andon("gate", "selftest", "--changed")
    assert 0 == mended.exit_code, mended.output
    assert "code.txt: red, as it should be" in mended.output
    assert "every gate has been seen red: 1 measures, 1 thresholds, 0 budgets" in mended.output
    assert "code.txt" not in andon("gate", "selftest", "--check").output
    assert 0 == read_evidence("selftest").metrics["unseen"].value
    (project / "plants.toml").write_text(PLANT.format("worse"))
    stale = andon("gate", "selftest", "--check")
    assert (1, True) == (stale.exit_code, "measure text (small)" in stale.output)
    assert 1 == read_evidence("selftest").metrics["unseen"].value
    assert 2 == andon("gate", "selftest", "--only", "absent").exit_code


@pytest.mark.usefixtures("project")
def test_claims_and_explain_show_today_s_state() -> None:
    """Behaviour: an unmeasured claim is exit code 3; a check is explained by name, and an unknown one is refused."""
    claims = andon("gate", "claims")
    assert (3, True) == (claims.exit_code, claims.output.startswith("claims NOT MEASURED: text.lines"))
    assert "NOT MEASURED: long\n    text.lines: null (must be >= 3)\n    make\n" in claims.output
    explained = andon("gate", "explain", "text.lines")
    assert (0, True) == (explained.exit_code, "\n1. " in explained.output)
    unknown = andon("gate", "explain", "text.line")
    assert (2, True) == (unknown.exit_code, "did you mean text.lines" in unknown.output)


def test_history_and_compare(project: Path) -> None:
    """Behaviour: a judged tier is in the history; comparing where nothing was judged is exit code 3, and says where."""
    commit = ["-c", "user.name=n", "-c", "user.email=e@example.invalid", "commit", "-qm", "m", "--allow-empty"]
    for words in (["init", "-q"], ["add", "-A"], commit):
        subprocess.run(["git", *words], cwd=project, check=True)
    assert 2 == andon("gate", "history").exit_code
    andon("gate", "judge", "small")
    history = andon("gate", "history", "small", "--check", "text.l")
    assert (0, True) == (history.exit_code, "text.lines" in history.output)
    same = andon("gate", "compare", "HEAD..HEAD")
    assert (0, True) == (same.exit_code, "nothing changed" in same.output)
    subprocess.run(["git", *commit], cwd=project, check=True)
    compared = andon("gate", "compare", "HEAD~1..HEAD")
    assert (3, True) == (compared.exit_code, "small: not measured at" in compared.output)
    assert 2 == andon("gate", "compare", "HEAD").exit_code
    assert "RED" == json.loads((project / "reports" / "history.jsonl").read_text())["answer"]
