"""`andon dev faults`: which faults are injected into a user's subject, and what is printed of them."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from andon.verify.faults.generic import GENERIC_FAULTS
from andon.workshop import faults
from tests.fault_rows import ROWS


@pytest.mark.tier1
def test_faults_are_chosen_by_name_and_area() -> None:
    """Behavior: --only takes a fault, an area, or how names begin, and refuses what is neither."""
    assert ["future-leak"] == [fault.id for fault in faults.chosen(GENERIC_FAULTS, ["future-leak"])]
    assert {"gradients"} == {fault.area for fault in faults.chosen(GENERIC_FAULTS, ["gradients"])}
    with pytest.raises(faults.FaultsError, match="does not name a fault; areas are loss"):
        faults.chosen(GENERIC_FAULTS, ["no-such"])


@pytest.mark.long
def test_a_users_subject_is_measured_by_the_faults_that_fit_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the found one is a line, one without its factory is absent and quiet, and the counts end it."""
    monkeypatch.chdir(tmp_path)
    told = ["tests.verify.small:small", "--only", "future-leak", "--only", "resume-one-late", "--workers", "1"]
    done = CliRunner().invoke(faults.command, [*told, "--quiet"])
    assert 0 == done.exit_code, done.output
    assert "100% of the live by checks alone" in done.output
    assert "future-leak" not in done.output
    shown = CliRunner().invoke(faults.command, [*told, "--html", "faults.html"]).output
    assert all(name in shown for name in ("future-leak", "resume-one-late", "attention.causality"))
    assert "future-leak" in Path("faults.html").read_text(encoding="utf-8")
    assert not Path("reports").exists()


@pytest.mark.tier2
def test_a_long_run_says_how_much_time_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behavior: every so often one line to stderr, none at the end; quiet, only what was not found is printed."""
    monkeypatch.setattr(faults, "LINE_EVERY_SECONDS", 0.0)
    with faults.screen(2, quiet=True, silent=False, timed=False) as note:
        note(ROWS[0])
        note(ROWS[3])
    said = capsys.readouterr()
    assert "  ... 1 of 2, 0:00 left\n" == said.err
    assert ("d " in said.out, "shapes.count" in said.out) == (True, False)
    with faults.screen(2, quiet=True, silent=True, timed=False) as note:
        note(ROWS[3])
    assert "" == capsys.readouterr().out


@pytest.mark.tier2
def test_samples_follow_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the same order for the same commit, another for another, and nothing is lost."""

    def order(commit: str | None) -> list[str]:
        monkeypatch.setattr(faults.commits, "head", lambda: commit)
        return [fault.id for fault in faults.shuffled(GENERIC_FAULTS)]

    assert order("a") == order("a") != order("b")
    assert sorted(order(None)) == sorted(fault.id for fault in GENERIC_FAULTS)


@pytest.mark.tier2
def test_without_git_a_sample_is_drawn_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: where git is not installed there is an order, too, and no traceback."""
    monkeypatch.setenv("PATH", "")
    assert len(GENERIC_FAULTS) == len(faults.shuffled(GENERIC_FAULTS))


@pytest.mark.tier2
def test_a_sample_of_no_seconds_is_refused() -> None:
    """Behavior: it would inject nothing, and must not pass for a whole run."""
    done = CliRunner().invoke(faults.command, ["a:b", "--sample", "0"])
    assert (2, True) == (done.exit_code, "--sample" in done.output)
