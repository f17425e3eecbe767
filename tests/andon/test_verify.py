"""`andon verify`: lists, explains and runs checks on what a user names, and exits with the severest code."""

import json
import re
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.progress import Progress

from andon.cli import bar as bar_
from andon.cli.main import cli
from andon.gates.evidence import changed_sources, read_evidence
from andon.verify.checks import Check
from andon.verify.errors import Unusual
from andon.verify.gradients import power
from andon.verify.run import selection

pytestmark = pytest.mark.tier2
SUBJECTS = """
import torch
from andon.verify import Subject
from tests.verify.small import Small, batch, loss

class Leaks(Small):
    def forward(self, tokens):
        x = self.embed(tokens)
        return self.head(x + torch.tanh(self.mix(x.mean(1, keepdim=True))))

subject = Subject(model=Small, batch=batch, loss=loss)
leaks = Subject(model=Leaks, batch=batch, loss=loss, name="leaks")
both = {"good": lambda: subject, "bad": leaks}
model = Small()
needs_one = lambda size: subject
three = 3
def broken():
    raise RuntimeError("no data here")
class Wrong:
    loss = lambda self, model, batch: 3.5
bad_loss = Subject(model=Small, batch=batch, loss=lambda model, batch: 3.5)
"""
ONE = ("--only", "attention.causality")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A user's folder with a module of subjects; what was imported from it is forgotten afterwards."""
    (tmp_path / "my_checks.py").write_text(SUBJECTS)
    (tmp_path / "half.py").write_text("import absent_package.part\n")
    (tmp_path / "script.py").write_text("import sys\nsys.exit(1)\n")
    (tmp_path / "faulty.py").write_text("x = 1\ny = x / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_checks", "half", "script", "faulty"):
        sys.modules.pop(name, None)


def run(*arguments: str) -> Result:
    """The command line."""
    return CliRunner().invoke(cli, ["verify", *arguments])


def test_a_correct_subject_passes() -> None:
    """Behavior: exit code 0, and the first line says how much applied."""
    result = run("my_checks:subject", *ONE)
    assert (0, "1 checked", "subject: pass") == (
        result.exit_code,
        result.stdout.splitlines()[0],
        result.stdout.splitlines()[1].partition(" (")[0],
    )


def test_a_fault_is_found_and_explained() -> None:
    """Behavior: exit code 1, with the numbers, why it is silent and where to look."""
    result = run("my_checks:leaks", *ONE, "--quiet")
    assert 1 == result.exit_code, result.output
    assert "RED attention.causality: No logit depends on a later token." in result.stdout
    for word in ("measured", "silent", "look"):
        assert f"\n  {word} " in result.stdout


def test_yellow_alone_passes_unless_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: exit code 0, and 1 with --strict; the words and the evidence say yellow; a reason quiets it."""

    def unusual(_: object) -> None:
        """It is done so.

        Yellow alone, as some mean it.
        """
        raise Unusual("0.1 where 0 is usual")

    monkeypatch.setattr(selection, "CHECKS", (Check("attention.causality", unusual),))
    result = run("my_checks:subject", "--evidence", "mine")
    assert (0, True) == (result.exit_code, "YELLOW attention.causality: It is done so." in result.stdout)
    counts = {key: metric.value for key, metric in read_evidence("mine").metrics.items()}
    assert (1, 0, 1) == tuple(counts[key] for key in ("findings", "red", "yellow"))
    assert 1 == run("my_checks:subject", "--strict").exit_code
    quiet = run("my_checks:both", "--strict", "--ignore", "attention", "--reason", "meant")
    assert (3, False) == (quiet.exit_code, "YELLOW" in quiet.stdout)
    assert "Yellow alone, as some mean it." in run("explain", "attention.causality").stdout
    assert "Turns yellow." in run("explain", "attention.causality").stdout


def test_a_dict_is_all_its_subjects_and_the_severest_code() -> None:
    """Behavior: each subject is reported by name; JSON holds a list of reports and nothing else is printed."""
    result = run("my_checks:both", *ONE, "--json")
    reports = json.loads(result.stdout)
    assert [("good", 0), ("bad", 1)] == [(report["subject"], report["exit_code"]) for report in reports]
    assert 1 == result.exit_code


def test_what_the_budget_leaves_out_is_not_a_pass() -> None:
    """Behavior: exit code 3 where nothing could be checked in time."""
    result = run("my_checks:subject", *ONE, "--budget", "0")
    assert (3, "0 checked, 1 not run (budget)") == (result.exit_code, result.stdout.splitlines()[0])


def test_counts_are_left_as_evidence(home: Path) -> None:
    """Behavior: checks, findings, what does not apply and what had no time, of all subjects, and what they are of."""
    both = ("--only", "attention.causality", "--only", "resume.twice")
    run("my_checks:both", *both, "--evidence", "mine", "--source", "my_checks.py")
    found = read_evidence("mine")
    values = {key: metric.value for key, metric in found.metrics.items() if key != "seconds"}
    assert {
        "checks": 2,
        "findings": 1,
        "red": 1,
        "yellow": 0,
        "not_applicable": 2,
        "notes": 0,
        "not_finished": 0,
    } == values
    assert [] == changed_sources(found)
    (home / "my_checks.py").write_text("")
    assert ["my_checks.py"] == changed_sources(found)
    run("my_checks:both", *both, "--budget", "0", "--evidence", "mine")
    assert 4 == read_evidence("mine").metrics["not_finished"].value  # nothing was run, of either


def test_a_terminal_shows_a_bar_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the bar is drawn after so many seconds, stopped in the end, and never drawn into a file."""
    drawn, shown, start = threading.Event(), [], Progress.start

    def started(progress: Progress) -> None:
        shown.append(progress)
        start(progress)
        drawn.set()

    monkeypatch.setattr(Progress, "start", started)
    monkeypatch.setattr(bar_, "BAR_AFTER_SECONDS", 0.0)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"FORCE_COLOR": "", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with bar_.bar() as note:
        note(1, 2, "a check")
    assert [] == shown
    monkeypatch.setenv("FORCE_COLOR", "1")
    with bar_.bar() as note:
        assert drawn.wait(10)
        note(1, 2, "a check")
    (bar,) = shown
    assert (1, 2, "a check") == (bar.tasks[0].completed, bar.tasks[0].total, bar.tasks[0].description)
    assert not bar.live.is_started


def test_an_ignored_check_needs_its_reason() -> None:
    """Behavior: the reason is printed; without one, it is a usage error."""
    both = ("--only", "attention.causality", "--only", "gradients.parameters")
    result = run("my_checks:leaks", *both, "--ignore", "attention.causality", "--reason", "a prefix model")
    assert 0 == result.exit_code, result.output
    assert "ignored: a prefix model: attention.causality" in result.stdout
    result = run("my_checks:leaks", "--ignore", "attention.causality")
    assert (2, True) == (result.exit_code, "each check left out needs its own" in result.stderr)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("my_checks", "does not name a subject; write package.module:subject"),
        ("my_checks.py:subject", "does not name a subject; write package.module:subject"),
        ("absent:subject", "there is no module 'absent'"),
        ("my_checks:subjct", "my_checks has no 'subjct'; it has subject, leaks, bad_loss"),
        ("my_checks:model", "Small is a model; checks also need a batch and a loss: Subject(model=model"),
        ("my_checks:needs_one", "is to return a Subject when called without arguments: missing a required argument"),
        ("my_checks:three", "three: int is not a Subject; give Subject(model="),
        ("my_checks:broken", "raised RuntimeError: no data here"),
        ("half:subject", "it needs absent_package, which is not installed: pip install absent_package"),
        ("script:subject", "put what runs below `if __name__ == '__main__':`"),
        ("faulty:subject", "faulty.py, line 2"),
    ],
)
def test_what_is_not_a_subject_is_one_message(target: str, message: str) -> None:
    """Behavior: exit code 2, one message on stderr, no traceback."""
    result = run(target)
    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_subject_that_cannot_be_run_exits_2() -> None:
    """Behavior: a factory's mistake is explained once."""
    result = run("my_checks:bad_loss")
    assert 2 == result.exit_code
    assert 1 == result.stdout.count("ERROR subject: the subject could not be run")
    assert "returned float, not a tensor" in result.stdout
    assert "attention." not in result.stdout  # and no list of the checks that it stopped


def test_the_list_says_every_word() -> None:
    """Behavior: lines wrap at 100 columns and nothing is cut; an area is listed alone, with the fields it needs."""
    from andon.verify import CHECKS
    from andon.verify.run.docstring import explain, lights

    text = run("list").stdout
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for each in CHECKS:
        assert f"{each.name} {each.tier} {'/'.join(lights(each))} {explain(each).title}" in words, each.name
    packing = run("list", "packing").stdout
    assert "attention.causality" not in packing
    assert "collate_packed(documents: list of lists of token ids) -> batch" in packing
    assert "lr_at" not in packing
    assert "Fields of verify.Subject" not in run("list", "norms").stdout
    result = run("list", "packin")
    assert (2, "andon: 'packin' is neither a check nor an area; closest: packing") == (
        result.exit_code,
        result.stderr.partition(",")[0].strip(),
    )


def test_an_explanation() -> None:
    """Behavior: a check is explained in full; a misspelled one is refused."""
    text = run("explain", "attention.causality").stdout
    assert text.startswith("attention.causality: No logit depends on a later token.")
    assert "\n\nExample:\n    # wrong: the mask lets position t see position t + 1\n    mask_TT = " in text
    assert "\n\nReference: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3.\n\n" in text
    said = "Needs model, batch, loss. Reads tokens of the batch, and logits of them. Turns red."
    assert said in " ".join(text.split())
    result = run("explain", "attention.causalty")
    assert (2, True) == (result.exit_code, "closest: attention.causality" in result.stderr)


def test_what_is_said_of_a_script_is_explained() -> None:
    """Behavior: each statement of a report on a script is; a misspelled one is refused, and the nearest named."""
    from andon.door.lines import LINES

    for each in LINES:
        text = run("explain", each.name).stdout
        assert text.startswith(f"{each.name}: "), each.name
        assert "Look" in text, each.name
        assert "Asked of a script as it is: andon verify -- python train.py." in " ".join(text.split())
    result = run("explain", "run.held_ot")
    assert (2, True) == (result.exit_code, "closest: run.held_out" in result.stderr)


def test_help_shows_a_runs_options_and_the_verbs() -> None:
    """Behavior: the shortest help has all of it; an option may stand before the subject."""
    text = run("--help").stdout
    for word in ("PACKAGE.MODULE:SUBJECT", "--only", "--budget", "list", "explain", "power", "Examples:"):
        assert word in text, word
    assert 0 == run(*ONE, "my_checks:subject").exit_code


def test_one_of_a_dict_is_run_by_its_key() -> None:
    """Behavior: the key picks the subject; a wrong one is refused with those that are there."""
    assert 1 == run("my_checks:both[bad]", *ONE).exit_code
    assert 0 == run("my_checks:both[good]", *ONE).exit_code
    result = run("my_checks:both[ugly]")
    assert (2, True) == (result.exit_code, "there is no 'ugly'; there are good, bad" in result.stderr)


def test_nothing_named_is_a_usage_error() -> None:
    """Behavior: without a subject the message says how one is named."""
    result = run()
    assert 2 == result.exit_code
    assert " verify [OPTIONS] PACKAGE.MODULE:SUBJECT" in result.stderr
    assert "verify run" not in result.stderr
    assert "package.module:subject" in result.stderr


def test_power_is_a_table_of_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a row for each kind of wrong gradient."""
    monkeypatch.setattr(power, "measure", lambda progress: [power.Row("wrong sign", 200, 150, 3)])
    result = run("power")
    assert 0 == result.exit_code, result.output
    assert ["wrong sign", "200", "150", "75.0%", "1.5%"] == re.split(r"  +", result.output.splitlines()[2])
