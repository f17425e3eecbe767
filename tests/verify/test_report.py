"""Reports: how much applied comes first, lines fit 100 columns, JSON holds everything."""

import contextlib
import json

import pytest

from andon.verify.errors import CheckFailed
from andon.verify.run.report import BUDGET, CANNOT_RUN, Finding, Report, headline, render_json, render_text

pytestmark = pytest.mark.tier1

FINDING = Finding(
    "attention.causality",
    "changing tokens from position 3 on moves logits before it by 0.5 of their rms, and rounding explains 1e-04",
    "No logit depends on a later token.",
    "Silent because the loss falls faster, not slower: the model reads the answer. " * 2,
    "Look at the mask's diagonal.",
    0.25,
)
REPORT = Report(
    "llama",
    (FINDING,),
    tuple(f"area.check_{index}" for index in range(20)),
    {f"resume.check_{index}": "loop and resume" for index in range(3)} | {"data.epoch": "epoch"},
    {"loss.label_shift": BUDGET},
    {"gradients.parameters": "in torch.float32: errors below 1e-04 of a gradient are not seen"},
    3.25,
    {"attention.causality": 0.25},
)


def test_the_first_line_says_how_much_applied() -> None:
    """Behavior: checked, not run, and what the rest needs, before anything else."""
    first, second = render_text(REPORT).splitlines()[:2]
    assert "21 checked, 1 not run (budget), 4 need: loop, resume, epoch" == first
    assert "llama: 1 finding (3.2 s)" == second


def test_lines_fit_a_terminal() -> None:
    """Behavior: no line is longer than 100 columns, and what was found stands in full."""
    text = render_text(REPORT)
    assert max(map(len, text.splitlines())) <= 100
    assert FINDING.message in " ".join(text.split())
    assert "FOUND attention.causality: No logit depends on a later token." in text
    for part in (
        FINDING.silent,
        FINDING.look,
        "errors below 1e-04",
        "area.check_19",
        "loop and resume: resume.check_0",
    ):
        assert " ".join(part.split()) in " ".join(text.split())


def test_quiet_leaves_out_what_is_well() -> None:
    """Behavior: the answer, findings, what was not run and notes stay; lists of what passed go."""
    text = render_text(REPORT, quiet=True)
    assert "area.check_0" not in text
    assert "FOUND" in text
    assert "loss.label_shift" in text


def test_a_mistake_is_not_a_finding_about_the_code() -> None:
    """Behavior: a subject that cannot be run is said so, with exit code 2."""
    report = Report("llama", (Finding("subject", "Subject.loss returned float", mistake=True),))
    assert ("0 checked", 2, True) == (report.headline, report.exit_code, report.found)
    assert "ERROR subject: the subject could not be run\n  why       Subject.loss returned float" in render_text(report)


def test_json_holds_everything() -> None:
    """Behavior: JSON has each field, the headline and the exit code."""
    (content,) = json.loads(render_json([REPORT]))
    assert (REPORT.headline, 1) == (content["headline"], content["exit_code"])
    assert FINDING._asdict() == content["findings"][0]
    assert {**REPORT.not_applicable} == content["not_applicable"]
    assert 20 == len(content["passed"])


def test_several_reports_have_one_headline() -> None:
    """Behavior: each verdict and each lack counts once for each subject, also where subjects have one name."""
    one = Report("llama", passed=("a.one",), not_applicable={"a.two": "loop"}, not_run={"a.three": "ignored: known"})
    assert "1 checked, 1 not run (ignored), 1 need: loop" == headline([one])
    assert "2 checked, 2 not run (ignored), 2 need: loop" == headline([one, one])


def test_a_mistake_is_one_message() -> None:
    """Behavior: checks that a broken subject leaves out are counted, not listed; one reason of several stands once."""
    broken = Report("s", (Finding("subject", "loss returned float", mistake=True),), not_run={"a.one": CANNOT_RUN})
    text = render_text(broken)
    assert "0 checked, 1 not run (the subject could not be run)" == text.splitlines()[0]
    assert "a.one" not in text
    names = ("a.one", "a.two", "a.three", "a.four", "a.five")
    text = render_text(Report("s", tuple(Finding(name, "optimizer raised TypeError", mistake=True) for name in names)))
    assert 1 == text.count("optimizer raised TypeError")
    assert "ERROR a.one, a.two, a.three and 2 more: the subject could not be run" in text


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (Report("s", passed=("a.one",)), 0),
        (Report("s"), 3),
        (Report("s", passed=("a.one",), not_run={"a.two": BUDGET}), 3),
        (Report("s", passed=("a.one",), not_run={"a.two": "ignored: known"}), 0),
        (Report("s", (FINDING, FINDING._replace(mistake=True))), 1),
    ],
)
def test_exit_codes(report: Report, code: int) -> None:
    """Behavior: 0 only where something was measured, nothing found and nothing left out for time."""
    assert code == report.exit_code
    with pytest.raises(CheckFailed) if report.found else contextlib.nullcontext():
        report.raise_if_found()
