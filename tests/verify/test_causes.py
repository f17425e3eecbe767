"""One cause, one finding: premises first, then what is given before what comes of it, and what follows beneath."""

import pytest

from andon.verify.checks import CHECKS
from andon.verify.run.causes import AREAS, PREMISES, by_cause
from andon.verify.run.report import YELLOW, Finding

pytestmark = pytest.mark.tier1


def order(*names: str, rests: bool = True, light: str = "red") -> list[tuple[str, tuple[str, ...]]]:
    """What is left of findings of these names, with what follows from each."""
    findings = [Finding(name, "", light=light) for name in names]
    return [(each.check, each.follows) for each in by_cause(findings, lambda _: rests)]


def test_every_area_has_its_place() -> None:
    """Behavior: no area is forgotten, and each premise but those of the subject is a check."""
    names = {each.name for each in CHECKS}
    assert {name.partition(".")[0] for name in names} | {"subject"} == set(AREAS)
    assert {each for each in PREMISES if not each.startswith("subject.")} <= names


def test_what_rests_on_passes_follows_from_a_broken_premise() -> None:
    """Behavior: in any order; what makes no pass stands alone, and another variant has a cause of its own."""
    assert [("determinism.eval", ("attention.rows",))] == order("attention.rows", "determinism.eval")
    alone = order("text.round_trip", "determinism.eval", rests=False)
    assert [("determinism.eval", ()), ("text.round_trip", ())] == alone
    assert [("determinism.eval", ()), ("loss.scale [a]", ())] == order("loss.scale [a]", "determinism.eval")


def test_a_reference_names_no_cause() -> None:
    """Behavior: a difference from it follows from what differs, of several the first from none."""
    assert [("norms.unit", ("reference.logits",))] == order("reference.logits", "norms.unit")
    assert [("reference.logits", ("reference.loss",))] == order("reference.logits", "reference.loss")
    assert [("text.round_trip", ()), ("reference.logits", ())] == order(
        "text.round_trip", "reference.logits", rests=False
    )


def test_red_comes_first_and_explains_yellow_is_not_a_cause() -> None:
    """Behavior: a yellow finding stands after the red ones and takes nothing under itself; mistakes come last."""
    findings = [
        Finding("loop", "", mistake=True), Finding("norms.unit", "", light=YELLOW), Finding("reference.loss", "")
    ]  # fmt: skip
    kept = by_cause(findings, lambda _: True)
    assert ["reference.loss", "norms.unit", "loop"] == [each.check for each in kept]
    assert all(not each.follows for each in kept)
