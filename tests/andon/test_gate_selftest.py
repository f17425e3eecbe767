"""`andon gate selftest`: what it prints, keeps and refuses."""

from pathlib import Path

import pytest

from andon.gates.evidence import read_evidence
from tests.andon.small_gates import FAULT, FILE
from tests.tuning import andon

pytestmark = pytest.mark.tier3


def test_selftest_says_what_was_not_seen_and_keeps_what_was(small_gates: Path) -> None:
    """Behavior: a fault that shows nothing fails by name; fixed, it is measured again; --check injects nothing."""
    (small_gates / "code.txt").write_text("good\n")
    failed = andon("gate", "selftest")
    assert 1 == failed.exit_code
    assert "'bad' is not in the output" in failed.output
    assert "measure text (small)\nnext: andon gate selftest --changed" in failed.output
    (small_gates / "andon.toml").write_text(
        FILE.replace("grep -q good code.txt", "sh -c 'cat code.txt; grep -q good code.txt'")
    )
    mended = andon("gate", "selftest", "--changed")
    assert 0 == mended.exit_code, mended.output
    assert "code.txt: red, as it should be" in mended.output
    assert "every gate went red: 1 measures, 1 thresholds, 0 budgets" in mended.output
    assert "code.txt" not in andon("gate", "selftest", "--check").output
    assert 0 == read_evidence("selftest").metrics["unseen"].value
    (small_gates / "faults.toml").write_text(FAULT.format("worse"))
    stale = andon("gate", "selftest", "--check")
    assert (1, True) == (stale.exit_code, "measure text (small)" in stale.output)
    assert 1 == read_evidence("selftest").metrics["unseen"].value
    assert 2 == andon("gate", "selftest", "--only", "absent").exit_code
