"""One cause, one finding: premises first, then what is given before what comes of it, and what follows beneath."""

import pytest

from andon.door.questions import QUESTIONS
from andon.door.statements import STATEMENTS
from andon.verify.checks import CHECKS
from andon.verify.run.causes import CONTAINS, ORDER, PREMISES, by_cause, place_of
from andon.verify.run.report import YELLOW, Finding

pytestmark = pytest.mark.tier1


def order(*names: str, rests: bool = True, light: str = "red") -> list[tuple[str, tuple[str, ...]]]:
    """What is left of findings of these names, with what follows from each."""
    findings = [Finding(name, "", light=light) for name in names]
    return [(each.check, each.follows) for each in by_cause(findings, lambda _: rests)]


def test_every_area_has_its_place() -> None:
    """Behavior: no area is forgotten, each name but the subject's is a statement's, and a cause has its place first."""
    names = {each.name for each in (*CHECKS, *STATEMENTS, *QUESTIONS)}
    areas = {name.partition(".")[0] for name in names}
    assert areas | {"subject", "watch"} == {each for each in ORDER if "." not in each}
    named = {*PREMISES, *ORDER, *CONTAINS, *(each for causes in CONTAINS.values() for each in causes)}
    assert {each for each in named if "." in each and not each.startswith(("subject.", "watch."))} <= names
    for name, causes in CONTAINS.items():
        for cause in causes:
            assert place_of(cause) < place_of(name), (cause, name)


def test_what_rests_on_passes_follows_from_a_broken_premise() -> None:
    """Behavior: in any order; what makes no pass stands alone, and another variant has a cause of its own."""
    assert [("determinism.eval", ("attention.rows",))] == order("attention.rows", "determinism.eval")
    alone = order("text.round_trip", "determinism.eval", rests=False)
    assert [("determinism.eval", ()), ("text.round_trip", ())] == alone
    assert [("determinism.eval", ()), ("loss.scale [a]", ())] == order("loss.scale [a]", "determinism.eval")


def test_a_yellow_premise_comes_first_too() -> None:
    """Behavior: where randomness in eval mode may be meant, what it makes of other checks is no accusation."""
    findings = [Finding("loss.scale", ""), Finding("determinism.eval", "", light=YELLOW)]
    assert [("determinism.eval", ("loss.scale",))] == [
        (each.check, each.follows) for each in by_cause(findings, lambda _: True)
    ]


def test_a_reference_names_no_cause() -> None:
    """Behavior: a difference from it follows from what differs, of several the first from none."""
    assert [("norms.unit", ("reference.logits",))] == order("reference.logits", "norms.unit")
    assert [("reference.logits", ("reference.loss",))] == order("reference.logits", "reference.loss")
    assert [("text.round_trip", ()), ("reference.logits", ())] == order(
        "text.round_trip", "reference.logits", rests=False
    )


def test_what_a_statement_takes_for_granted_is_its_cause() -> None:
    """Behavior: also through a third; without that cause the finding stands alone."""
    assert [("structure.blocks", ("structure.parameters", "updates.movement"))] == order(
        "updates.movement", "structure.parameters", "structure.blocks"
    )
    assert [("clipping.bound", ("updates.gradient", "updates.fresh"))] == order(
        "updates.gradient", "updates.fresh", "clipping.bound"
    )
    assert [("updates.fresh", ())] == order("updates.fresh")


def test_what_is_yellow_explains_yellow_alone() -> None:
    """Behavior: a habit that was broken is no cause of what is wrong; of another broken habit it is."""
    told = "run.schedule_steps", "run.rates"
    assert [("run.schedule_steps", ("run.rates",))] == order(*told, light=YELLOW)
    findings = [Finding(told[0], "", light=YELLOW), Finding(told[1], "")]
    assert [(told[1], ()), (told[0], ())] == [
        (each.check, each.follows) for each in by_cause(findings, lambda _: False)
    ]


def test_red_comes_first_and_explains_yellow_is_not_a_cause() -> None:
    """Behavior: a yellow finding stands after the red ones and takes nothing under itself; mistakes come last."""
    findings = [
        Finding("loop", "", mistake=True), Finding("norms.unit", "", light=YELLOW), Finding("reference.loss", "")
    ]  # fmt: skip
    kept = by_cause(findings, lambda _: True)
    assert ["reference.loss", "norms.unit", "loop"] == [each.check for each in kept]
    assert all(not each.follows for each in kept)


def test_what_stands_beneath_comes_along() -> None:
    """Behavior: what follows from a finding stands beneath it, over two steps as well, with what stood beneath that."""
    names = ("watch.zero_grad", "run.membership", "watch.stale", "run.order", "optimizer.membership")
    findings = [Finding(name, "", follows=("loss.scale",) if name == "optimizer.membership" else ()) for name in names]
    beneath = ("run.membership", "watch.zero_grad", "optimizer.membership", "loss.scale")
    assert [("watch.stale", beneath), ("run.order", ())] == [
        (each.check, each.follows) for each in by_cause(findings, lambda _: False)
    ]
