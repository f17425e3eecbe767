"""No check stands in the table that has never found anything."""

import json
from pathlib import Path

import pytest

from andon.verify.checks import CHECKS
from tests.verify.checks import test_model_checks, test_training_checks
from tests.verify.test_generic import PARITY

MATRIX = Path(__file__).parents[3] / "reports" / "baselines" / "faults.json"


def finders() -> set[str]:
    """The checks that have found a planted fault."""
    rows = json.loads(MATRIX.read_text(encoding="utf-8"))["rows"]
    found = {fault.finder for fault in test_model_checks.FAULTS} | {bug.found_by for bug in test_training_checks.BUGS}
    return found | set(PARITY.values()) | {name for row in rows for name in row["checks"]}


@pytest.mark.long
def test_each_check_is_the_finder_of_a_planted_fault() -> None:
    """Behaviour: each check is named by a fault that a test plants, or by the catalogue's committed matrix."""
    assert [] == [each.name for each in CHECKS if each.name not in finders()]
