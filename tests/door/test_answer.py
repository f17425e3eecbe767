"""What somebody is told who wrote no Subject: reasons, titles, and no parts to unlock."""

import re
from pathlib import Path

import pytest

from andon.door.answer import Answer
from andon.door.invariants import INVARIANTS
from andon.door.lacks import REMADE, in_words
from andon.verify.run.report import Report, parts_of

pytestmark = pytest.mark.tier1
VERIFY = Path(__file__).parents[2] / "verify"
REASONS = {
    "tokens in the batch: name the part with Subject(roles={'tokens': ...})": "tokens in the batch: the door could not",
    "a cross-entropy of the tokens' labels: Subject(objective='cross_entropy') says so": "labels: the door could not",
    "logits (B, T, V) for tokens (32, 6), not NoneType: give Subject(logits=...)": "return no such thing",
    "hyperparameters['weight_decay'], or groups of different decay": "groups of different decay: what else was meant",
    "code that takes what this check changes (Subject.loss raised ValueError: of size 1.\nin a.py, line 9, f: g())": (
        "it raised ValueError: of size 1."
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons_speak_of_no_subject(reason: str) -> None:
    """Behavior: what a Subject would say is said as what the door did not see, and nothing is unlocked by it."""
    said = in_words(reason)
    assert REASONS[reason] in said
    assert "Subject" not in said
    assert [] == parts_of(said)


def test_other_reasons_stay() -> None:
    """Behavior: a reason that speaks of the code alone is said as it is; autocast is only said to lack where it did."""
    assert "rows that come again" == in_words("rows that come again")
    lacks = "a model in bfloat16 or float16, or under autocast"
    assert (lacks, REMADE) == (in_words(lacks), in_words(lacks, autocast=True))


def test_what_was_not_asked_is_no_need() -> None:
    """Behavior: the text names each reason once, under a heading that blames nothing; `quiet` leaves it out."""
    report = Report("train.py", passed=("run.order",), not_applicable={"a.b": "two epochs", "a.c": "two epochs"})
    text = Answer(report, ("Model",)).as_text()
    assert "1 checked, 2 not applicable" in text
    assert "not asked, as the run was not seen to have\n  two epochs: a.b, a.c\n" in text
    assert "needs" not in text
    assert "two epochs" not in Answer(report, ("Model",)).as_text(quiet=True)


def test_each_invariant_has_a_title() -> None:
    """Behavior: whatever `watch` can find is stated; but what a statement about the whole run says better."""
    sources = [path.read_text() for path in (VERIFY / "invariants").glob("*.py")]
    kinds = {kind for source in sources for kind in re.findall(r"found\(\s*\"(\w+)\"", source)}
    assert {f"watch.{kind}" for kind in kinds - {"optimizer"}} == INVARIANTS.keys()
    assert all(each.title.endswith(".") and each.silent.endswith(".") for each in INVARIANTS.values())
