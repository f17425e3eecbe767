"""The catalogue is whole and still fits the source that it is planted into."""

import ast
import functools
from collections import Counter
from pathlib import Path

import pytest

from andon.verify.faults.inject import InjectionError, patched
from tests.faults.catalogue import ELSEWHERE, FAULTS

ROOT = Path(__file__).parents[2]
FEWEST = 85


@functools.cache
def source(module: str) -> str:
    """A module's source as it is."""
    return (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


@pytest.mark.tier1
def test_every_fault_still_applies() -> None:
    """Behavior: each fault's text stands once in its module, and is another one there."""
    broken = []
    for fault in FAULTS:
        text = source(fault.module)
        try:
            changes = fault.after in patched(fault, text).replace(text, "")
        except InjectionError as error:
            broken.append(str(error))
        else:
            broken += [] if changes else [f"{fault.id} changes nothing"]
    assert [] == broken


@pytest.mark.tier2
def test_every_fault_makes_python() -> None:
    """Behavior: what a fault makes of its module can be parsed."""
    for fault in FAULTS:
        ast.parse(patched(fault, source(fault.module)), fault.id)


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
