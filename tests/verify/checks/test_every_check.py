"""No check stands in the table that has never found anything."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from andon.verify import checks
from andon.verify.checks import CHECKS
from tests.verify.checks import (
    test_conversations,
    test_metrics,
    test_model_checks,
    test_packed_rows,
    test_resizing,
    test_training_checks,
)
from tests.verify.checks.test_models_as_used import CASES
from tests.verify.checks.test_objective import OBJECTIVES
from tests.verify.test_generic import PARITY

MODULES = (test_conversations, test_metrics, test_packed_rows, test_resizing)
MATRIX = Path(__file__).parents[3] / "reports" / "baselines" / "faults.json"


def finders() -> set[str]:
    """The checks that have found an injected fault."""
    rows = json.loads(MATRIX.read_text(encoding="utf-8"))["rows"]
    found = {fault.finder for fault in test_model_checks.FAULTS} | {bug.found_by for bug in test_training_checks.BUGS}
    found |= {case.check for case in (*CASES.values(), *OBJECTIVES.values()) if case.light}
    found |= {name for module in MODULES for name in module.FINDERS}
    return found | set(PARITY.values()) | {name for row in rows for name in row["checks"]}


@pytest.mark.long
def test_each_check_is_the_finder_of_an_injected_fault() -> None:
    """Behavior: each check is named by a fault that a test injects, or by the catalogue's committed matrix."""
    assert [] == [each.name for each in CHECKS if each.name not in finders()]


@pytest.mark.tier1
def test_a_check_is_found_by_its_name() -> None:
    """Behavior: `area.what` is `check_what` of the area's file, which holds no other area's, and each is run once."""
    areas = {
        each.name.partition(".")[0]: import_module(f"andon.verify.checks.{each.name.partition('.')[0]}")
        for each in CHECKS
    }
    for area, module in areas.items():
        for each in module.CHECKS:
            assert (area, f"check_{each.name.partition('.')[2]}") == (
                each.name.partition(".")[0],
                each.function.__name__,
            )
            assert module.__name__ == each.function.__module__
    assert sorted(each.name for module in areas.values() for each in module.CHECKS) == sorted(
        each.name for each in CHECKS
    )
    assert len(CHECKS) == len({each.name for each in CHECKS})
    files = {path.stem for path in Path(checks.__file__).parent.glob("*.py")}
    assert files - {"__init__", "table"} == set(areas)
