"""`andon gate history` and `compare`: what they print, with which exit code."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.tuning import andon

pytestmark = pytest.mark.tier3


def test_history_and_compare(small_gates: Path) -> None:
    """Behavior: a judged tier is in the history; comparing where nothing was judged is exit code 3, and says where."""
    commit = ["-c", "user.name=n", "-c", "user.email=e@example.invalid", "commit", "-qm", "m", "--allow-empty"]
    for words in (["init", "-q"], ["add", "-A"], commit):
        subprocess.run(["git", *words], cwd=small_gates, check=True)
    assert 2 == andon("gate", "history").exit_code
    andon("gate", "judge", "small")
    history = andon("gate", "history", "small", "--check", "text.l")
    assert (0, True) == (history.exit_code, "text.lines" in history.output)
    same = andon("gate", "compare", "HEAD..HEAD")
    assert (0, True) == (same.exit_code, "nothing changed" in same.output)
    subprocess.run(["git", *commit], cwd=small_gates, check=True)
    compared = andon("gate", "compare", "HEAD~1..HEAD")
    assert (3, True) == (compared.exit_code, "small: not measured at" in compared.output)
    assert 2 == andon("gate", "compare", "HEAD").exit_code
    assert "RED" == json.loads((small_gates / "reports" / "history.jsonl").read_text())["answer"]


@pytest.mark.usefixtures("small_gates")
def test_a_verdict_is_printed_as_sarif() -> None:
    """Behavior: a document alone, with a result for each check and the exit code of the verdict."""
    done = andon("gate", "judge", "small", "--format", "sarif")
    (run,) = json.loads(done.output)["runs"]
    assert ["text", "text.lines"] == [result["ruleId"] for result in run["results"]]
    assert done.exit_code == run["invocations"][0]["exitCode"] != 0
