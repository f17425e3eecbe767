"""`verify.parametrize`: each check is a test that passes, fails without a traceback, or says what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from andon.verify import parametrize
from andon.verify.errors import UnknownCheckError
from tests.verify.small import small

TESTS = """
import torch
from andon.verify import Subject, parametrize
from tests.verify.small import Small, batch, loss


class Drops(Small):
    def forward(self, tokens):
        return torch.nn.functional.dropout(super().forward(tokens), 0.3)


class Leaks(Small):
    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + torch.tanh(self.mix(x.mean(1, keepdim=True))))


GOOD = Subject(model=Small, batch=batch, loss=loss)
LEAKS = Subject(model=Leaks, batch=batch, loss=loss)
DROPS = Subject(model=Drops, batch=batch, loss=loss)
EMPTY = Subject(model=Small, batch=batch, loss=lambda model, batch: loss(model, batch) * float("nan"))
ONLY = ("attention.causality", "gradients.inputs")


@parametrize({"good": GOOD, "leaks": LEAKS}, only=ONLY)
def test_training(check):
    check()


@parametrize(LEAKS, only=ONLY, ignore={"attention": "a prefix model"})
def test_ignored(check):
    check()


@parametrize({"good": GOOD, "leaks": LEAKS}, only=("resume.twice",))
def test_lacking(check):
    check()


@parametrize({"drops": DROPS}, only=("determinism.eval", "loss.definition"))
def test_one_cause(check):
    check()


@parametrize({"empty": EMPTY}, only=("determinism.eval", "loss.definition"))
def test_no_check_of_its_own(check):
    check()
"""


@pytest.mark.long
def test_each_check_is_a_test(tmp_path: Path) -> None:
    """Behavior: one fails with the finding alone, one is skipped with its reason, and the summary says how many."""
    (tmp_path / "test_mine.py").write_text(TESTS)
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-rfs", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "300"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert 1 == done.returncode, done.stdout
    assert "test_training[leaks-attention.causality]" in done.stdout
    assert "RED attention.causality" in done.stdout
    assert "[leaks-attention.causality] - Failed: attention.causality: changing the tokens from " in done.stdout
    assert "Traceback" not in done.stdout
    assert "ignored: a prefix model" in done.stdout
    assert "2 failed, 5 passed, 5 skipped" in done.stdout
    assert "follows from determinism.eval" in done.stdout
    assert "UnusualWarning: determinism.eval: " in done.stdout  # yellow, as it may be meant
    assert "follows from subject.finite" in done.stdout
    summary = next(line for line in done.stdout.splitlines() if line.startswith("andon: "))
    assert (
        "1 not run (ignored), 1 not run (follows from subject.finite), 2 not applicable: loop + resume unlocks 2"
        in summary
    )


@pytest.mark.tier2
def test_a_misspelled_name_is_refused_where_the_test_is_made() -> None:
    """Behavior: what is to be ignored, or alone to be run, is a check or an area; as for `check`."""
    for wrong in ({"ignore": {"atention": "why"}}, {"only": ("atention",)}):
        with pytest.raises(UnknownCheckError, match="'atention' is neither a check nor an area; closest: "):
            parametrize(small(), **wrong)  # ty: ignore[invalid-argument-type]
