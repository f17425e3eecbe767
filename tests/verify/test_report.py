"""Reports: how much applied comes first, lines fit 100 columns, JSON holds everything."""

import contextlib
import json
import warnings

import pytest

from andon.verify.errors import CheckFailed, SubjectError, UnusualWarning
from andon.verify.run.report import (
    BUDGET,
    CANNOT_RUN,
    FOLLOWS,
    YELLOW,
    Finding,
    Report,
    headline,
    render_json,
    render_text,
)

pytestmark = pytest.mark.tier1

FINDING = Finding(
    "attention.causality",
    "changing tokens from position 3 on moves logits before it by 0.5 of their rms, and rounding explains 1e-04",
    "No logit depends on a later token.",
    "Silent because the loss falls faster, not slower: the model reads the answer. " * 2,
    "Look at the mask's diagonal.",
    0.25,
)
UNUSUAL = Finding("optimizer.decay", "norm.weight decays by 0.1", "Norms do not decay.", light=YELLOW)
REPORT = Report(
    "llama",
    (FINDING,),
    tuple(f"area.check_{index}" for index in range(20)),
    {f"resume.check_{index}": "loop and resume" for index in range(3)}
    | {
        "data.epochs": "epoch_batches",
        "adapters.merge": "adapters",
        "dtypes.loss": "a model in bfloat16, float16 or so",
    },
    {"loss.label_shift": BUDGET},
    {"gradients.parameters": "in torch.float32: smallest gradient error that can be detected: 1e-04"},
    3.25,
    {"attention.causality": 0.25},
)


def test_the_first_line_says_how_much_applied() -> None:
    """Behavior: checked, not run, and what the rest needs, before anything else."""
    first, second = " ".join(render_text(REPORT).splitlines()[:2]), render_text(REPORT).splitlines()[2]
    assert (
        "21 checked, 1 not run (budget), 6 not applicable: loop + resume unlocks 3, epoch_batches 1, adapters 1"
        == first
    )
    assert "llama: 1 red, not all was measured (3.2 s)" == second


def test_lines_fit_a_terminal() -> None:
    """Behavior: no line is longer than 100 columns, and what was found stands in full."""
    text = render_text(REPORT)
    assert max(map(len, text.splitlines())) <= 100
    assert FINDING.message in " ".join(text.split())
    assert "RED attention.causality: No logit depends on a later token." in text
    for part in (
        FINDING.silent.removeprefix("Silent "),
        FINDING.look.removeprefix("Look "),
        "detected: 1e-04",
        "area.check_19",
        "a model in bfloat16, float16 or so: dtypes.loss",
    ):
        assert " ".join(part.split()) in " ".join(text.split())


def test_each_lacking_part_has_one_row() -> None:
    """Behavior: parts stand in rows, most checks first; what fine-tuning adds in one line; then other reasons."""
    rows = [line[12:] for line in render_text(REPORT).splitlines() if line.startswith(("needs  ", " " * 12))]
    starts = ["loop + resume (3) ", "epoch_batches (1) ", "fine-tuning ", "other code "]
    assert [start for start in starts if any(row.startswith(start) for row in rows)] == starts
    assert "resume 3" in rows[[row.startswith("loop") for row in rows].index(True)]


def test_a_caveat_is_a_line_of_its_own() -> None:
    """Behavior: what else is to be said of a check stands under its own label, and no label's word comes twice."""
    text = render_text(Report("s", (FINDING._replace(detail="Windows count their own."),)))
    assert "  detail    Windows count their own.\n  silent    because the loss" in text
    assert "  look      at the mask's diagonal." in text


def test_a_long_headline_is_wrapped_whole() -> None:
    """Behavior: parts are counted by field, also where a reason names several; none is cut at the width."""
    reasons = ["train_step or loop", "hyperparameters['grad_clip']", "a setting in `config_alternatives`", "configure"]
    reasons += [
        "validation_batches",
        "encode_instruction",
        "reference_logits",
        "cached_logits",
        "a causal model, or not",
    ]
    report = Report("s", not_applicable={f"area.check_{place}": text for place, text in enumerate(reasons)})
    first = render_text(report).partition("\ns: ")[0]
    assert "9 not applicable: train_step unlocks 1, loop 1, hyperparameters 1, config_alternatives 1" in report.headline
    assert report.headline == first.replace("\n", " ")
    assert "..." not in first
    assert "causal" not in first


def test_parts_that_open_a_check_together_are_one_entry() -> None:
    """Behavior: neither alone would open it; a part that would open it alone is counted alone."""
    lacks = {"resume.a": "loop and resume", "updates.a": "train_step or loop", "configuration.a": "configure and loop"}
    report = Report("s", not_applicable=lacks)
    assert (
        "3 not applicable: loop + resume unlocks 1, train_step 1, loop 1, configure + loop 1"
        == report.headline.partition(", ")[2]
    )
    assert max(map(len, render_text(report).splitlines())) <= 100


def test_quiet_leaves_out_what_is_well() -> None:
    """Behavior: the answer, findings and what was not run stay; what passed, its notes and what is needed go."""
    text = render_text(REPORT, quiet=True)
    assert "area.check_0" not in text
    assert "can be detected" not in text
    assert "resume (3)" not in text
    assert "RED" in text
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
    assert FINDING._asdict() | {"follows": []} == content["findings"][0]
    assert ("red", 1, 0) == (content["findings"][0]["light"], content["red"], content["yellow"])
    assert {**REPORT.not_applicable} == content["not_applicable"]
    assert 20 == len(content["passed"])


def test_several_reports_have_one_headline() -> None:
    """Behavior: each verdict and each lack counts once for each subject, also where subjects have one name."""
    one = Report("llama", passed=("a.one",), not_applicable={"a.two": "loop"}, not_run={"a.three": "ignored: known"})
    assert "1 checked, 1 not run (ignored), 1 not applicable: loop unlocks 1" == headline([one])
    assert "2 checked, 2 not run (ignored), 2 not applicable: loop unlocks 2" == headline([one, one])


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
        (Report("s", (FINDING, UNUSUAL)), 1),
        (Report("s", (UNUSUAL,)), 0),
        (Report("s", (UNUSUAL,), strict=True), 1),
        (Report("s", (UNUSUAL, FINDING._replace(mistake=True))), 2),
        (Report("s", (UNUSUAL,), not_run={"a.two": BUDGET}), 3),
    ],
)
def test_exit_codes(report: Report, code: int) -> None:
    """Behavior: 0 only where something was measured, nothing red and nothing left out for time; strict, or yellow."""
    assert code == report.exit_code
    error = {1: CheckFailed, 2: SubjectError}.get(code)
    with pytest.raises(error) if error else contextlib.nullcontext(), warnings.catch_warnings(action="ignore"):
        report.raise_if_found()


def test_yellow_is_said_apart_and_warns() -> None:
    """Behavior: both lights are words of their own, are counted apart in the answer, and yellow alone only warns."""
    text = render_text(Report("s", (FINDING, UNUSUAL)))
    assert "s: 1 red, 1 yellow (0.0 s)" in text
    assert "\nYELLOW optimizer.decay: Norms do not decay." in text
    with pytest.warns(UnusualWarning, match=r"YELLOW optimizer\.decay"):
        Report("s", (UNUSUAL,)).raise_if_found()
    assert "s: 1 yellow, not all was measured" in render_text(Report("s", (UNUSUAL,), not_run={"a.two": BUDGET}))


def test_what_follows_stands_beneath_its_cause() -> None:
    """Behavior: one line, in JSON a list; each counts as checked and not as found; what it left out is not listed."""
    finding, left_out = FINDING._replace(follows=("loss.scale", "loss.shapes")), {"a.two": f"{FOLLOWS} a.one"}
    report = Report("s", (finding,), not_run=left_out)
    text = render_text(report)
    assert "\n  follows   from it: loss.scale, loss.shapes\n" in text
    assert ("s: 1 red (0.0 s)", 3, False) == (text.splitlines()[1], report.checked, "a.two" in text)
    assert "3 checked, 1 not run (follows from a.one)" == report.headline
    assert ["loss.scale", "loss.shapes"] == json.loads(render_json([report]))[0]["findings"][0]["follows"]
