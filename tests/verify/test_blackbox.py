"""Faults that fit around any subject: each one shows, and none goes where the factory is missing."""

from dataclasses import replace

import pytest

from tests.subjects import SUBJECTS
from tests.verify.small import small
from verify import check
from verify.blackbox import BLACKBOX, NAMED
from verify.vitals import changes, vitals

ALWAYS = ("model", "loss")  # what every subject has
PARITY = {"labels-shifted": "reference.loss", "loss-half-detached": "reference.gradients"}
RARE = {"labels-ignored-counted", "dropout-in-eval"}  # show only where something is ignored; are another each time


@pytest.mark.tier3
def test_the_same_subject_shows_nothing() -> None:
    """Behaviour: what is seen of a subject is the same each time, and of another it is not."""
    assert [] == changes(small(), vitals(small()))
    changed = replace(small(), loss=lambda model, batch: 1.01 * small().loss(model, batch))
    assert changes(changed, vitals(small()))


@pytest.mark.tier3
@pytest.mark.parametrize("name", [fault.id for fault in BLACKBOX if fault.factory in ALWAYS and fault.id not in RARE])
def test_a_fault_of_what_every_subject_has_is_live(name: str) -> None:
    """Behaviour: planted into a small subject, something that can be seen of it differs."""
    planted = NAMED[name].plant(small())
    assert planted
    assert changes(planted, vitals(small()))


@pytest.mark.tier3
@pytest.mark.parametrize(("name", "finder"), PARITY.items())
def test_parity_with_a_reference_sees_it(name: str, finder: str) -> None:
    """Behaviour: around our core, which has a reference, the check of parity is silent, then finds the fault."""
    clean = SUBJECTS["llama"]()
    planted = NAMED[name].plant(clean)
    assert planted
    assert [] == [finding.check for finding in check(clean, only=(finder,)).findings]
    assert [finder] == [finding.check for finding in check(planted, only=(finder,)).findings]


@pytest.mark.tier1
def test_a_fault_without_its_factory_is_not_planted() -> None:
    """Behaviour: what a subject lacks cannot be wrong."""
    lacking = {fault.factory for fault in BLACKBOX if fault.plant(small()) is None}
    assert ("resume" in lacking, set()) == (True, lacking & set(ALWAYS))
