"""The catalogue is whole and still fits the source that it is injected into."""

import ast
import functools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from andon.source import SourceError, find
from andon.verify.checks import CHECKS
from andon.verify.faults.inject import InjectionError, patched
from tests.faults.catalogue import ELSEWHERE, FAULTS
from tests.faults.naming import NAMING

ROOT = Path(__file__).parents[2]
FEWEST = 85


@functools.cache
def source(where: str) -> str:
    """The source of the module that defines what a fault names, as it is."""
    return find(where).path.read_text(encoding="utf-8")


@pytest.mark.tier2
def test_who_names_a_fault_is_a_check() -> None:
    """Behavior: each line is of a fault, and names checks; only what unit tests alone find has none."""
    names = {each.name for each in CHECKS}
    assert set(NAMING) <= {fault.id for fault in FAULTS}
    assert [] == [name for checks in NAMING.values() for name in checks if name not in names]
    assert [] == [fault.id for fault in FAULTS if not fault.named_by and not fault.test]


@pytest.mark.tier2
def test_every_fault_still_applies() -> None:
    """Behavior: one module defines what a fault names, its `before` stands there once, and `after` is another."""
    broken = []
    for fault in FAULTS:
        try:
            text = source(fault.where)
            changes = patched(fault, text) != text
        except (InjectionError, SourceError) as error:
            broken.append(str(error))
        else:
            broken += [] if changes else [f"{fault.id} changes nothing"]
    assert [] == broken


@pytest.mark.tier1
def test_no_fault_names_a_module() -> None:
    """Behavior: a fault of our core names the package and a definition, so that moving a module breaks none."""
    assert {"andon.core"} == {fault.where.partition(":")[0] for fault in FAULTS}


@pytest.mark.tier2
def test_every_fault_makes_python() -> None:
    """Behavior: what a fault makes of its module can be parsed."""
    for fault in FAULTS:
        ast.parse(patched(fault, source(fault.where)), fault.id)


@pytest.mark.tier2
def test_every_fault_names_what_its_module_knows(tmp_path: Path) -> None:
    """Behavior: no injected code uses a name that the module does not define: such a fault would end in a NameError."""
    for fault in FAULTS:
        (tmp_path / f"{fault.id}.py").write_text(patched(fault, source(fault.where)), encoding="utf-8")
    command = [
        Path(sys.executable).with_name("ruff"),
        "check",
        "--isolated",
        "--no-cache",
        "--quiet",
        "--select",
        "F821",
        "--output-format",
        "concise",
    ]
    done = subprocess.run([*command, tmp_path], check=False, capture_output=True, text=True)
    assert "" == done.stdout


@pytest.mark.tier1
def test_faults_are_many_and_have_names_of_their_own() -> None:
    """Behavior: at least 85 faults, none twice, none of those said to have no home here."""
    names = Counter(fault.id for fault in FAULTS)
    assert FEWEST <= len(FAULTS)
    assert {1} == set(names.values())
    assert set() == names.keys() & ELSEWHERE.keys()


@pytest.mark.tier1
def test_every_fault_says_where_it_was_found_and_how_it_shows() -> None:
    """Behavior: only a pattern has no source, and every fault has a symptom and a subject."""
    unsourced = {fault.id for fault in FAULTS if not fault.source}
    assert {fault.id for fault in FAULTS if fault.status == "pattern"} == unsourced
    assert [] == [fault.id for fault in FAULTS if not (fault.symptom and fault.subjects and fault.area)]


@pytest.mark.tier1
def test_unit_tests_that_find_a_fault_exist() -> None:
    """Behavior: a test that a fault names is defined in the file that it names."""
    for path, _, name in (fault.test.partition("::") for fault in FAULTS if fault.test):
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name
