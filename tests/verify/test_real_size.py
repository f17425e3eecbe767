"""The suite on published weights: SmolLM2-135M-Instruct through transformers, on two cores, within ten minutes."""

from pathlib import Path
from typing import Any

import pytest

from core.huggingface import export_huggingface
from core.interchange import load_model
from tests.core.test_smollm2 import path, transformers  # noqa: F401 - fixtures
from verify import subjects
from verify.report import BUDGET
from verify.runner import check
from verify.subject import Subject

pytestmark = pytest.mark.slow

LIMIT = 600.0  # seconds
BUDGETED = 20.0
SLOWEST = 60.0  # of one check, which a budget does not interrupt


@pytest.fixture(scope="module")
def subject(path: Path, transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Subject:  # noqa: F811 - the fixtures
    """Hugging Face's model and tokenizer; each check copies the model."""
    folder = tmp_path_factory.mktemp("smollm2") / "hf"
    model, tokeniser = load_model(path)
    export_huggingface(model, folder, tokeniser)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return subjects.huggingface.causal_lm(theirs, tokenizer=tokenizer, rows=2, length=32)


def test_a_published_model_is_clean_within_ten_minutes(subject: Subject) -> None:
    """Behaviour: every applicable check passes, each announced before it runs, in less than ten minutes in all."""
    announced: list[str] = []
    report = check(subject, progress=lambda done, total, name: announced.append(name))
    assert () == report.findings
    assert report.seconds < LIMIT
    assert set(report.passed) <= set(announced)
    assert report.checked > 30


def test_a_budget_is_respected(subject: Subject) -> None:
    """Behaviour: no check begins after the budget, those left are named, and that is no pass."""
    report = check(subject, budget=BUDGETED)
    assert report.seconds < BUDGETED + SLOWEST
    assert BUDGET in report.not_run.values()
    assert 3 == report.exit_code
