"""The suite on published weights: SmolLM2-135M-Instruct through transformers, on two cores, within ten minutes."""

import pytest

from andon.verify.errors import SubjectError
from andon.verify.run.report import UNFINISHED
from andon.verify.run.runner import check
from andon.verify.subject import Subject

pytestmark = pytest.mark.slow

LIMIT = 600.0  # seconds
BUDGETED = 20.0
SLOWEST = 10.0  # of what lies between two forward passes: copying a model, moving its weights


@pytest.fixture(scope="module")
def subject() -> Subject:
    """What `andon verify tests.smollm2:SUBJECT` checks."""
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'transformers>=5'")
    from tests import smollm2

    try:
        return smollm2.SUBJECT()
    except SubjectError as error:
        pytest.skip(str(error))


def test_a_published_model_is_clean_within_ten_minutes(subject: Subject) -> None:
    """Behavior: every applicable check passes, each announced before it runs, in less than ten minutes in all."""
    announced: list[str] = []
    report = check(subject, progress=lambda done, total, name: announced.append(name))
    assert () == report.findings
    assert report.seconds < LIMIT
    assert set(report.passed) <= set(announced)
    assert report.checked > 30
    assert "single entries of" in report.notes["gradients.parameters"]


def test_a_budget_is_respected_inside_a_check(subject: Subject) -> None:
    """Behavior: the check that is at work ends soon after the budget, is named, and that is not a pass."""
    report = check(subject, only=["gradients.parameters"], budget=BUDGETED)
    assert report.seconds < BUDGETED + SLOWEST
    assert {"gradients.parameters": UNFINISHED} == report.not_run
    assert 3 == report.exit_code
