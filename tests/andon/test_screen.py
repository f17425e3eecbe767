"""What a person sees of a run: a bar on a terminal, nothing where it is quiet."""

from types import SimpleNamespace
from typing import Any

import pytest

from andon.runs import screen

pytestmark = pytest.mark.tier2


def record(step: int) -> Any:
    """A step of half a second with 1,000 tokens."""
    return SimpleNamespace(step=step, loss=2.5, tokens=1000, seconds={"forward": 0.25, "backward": 0.25})


def test_a_terminal_shows_a_bar_with_loss_and_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behavior: step of how many, loss, tokens per second and time left; lines are printed above the bar."""
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "100", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with screen.progress(1, 4, quiet=False) as (note, say):
        say("above")
        note(record(2))
        note(record(3))
    shown = capsys.readouterr().out
    assert "above" in shown
    assert all(part in shown for part in ("3/4", "loss 2.500", "2,000 tokens/s"))


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Behavior: neither steps nor lines; without it both."""
    for quiet in (True, False):
        with screen.progress(0, 1, quiet=quiet) as (note, say):
            say("above")
            note(record(1))
        assert ("above\nstep 1/1  loss 2.500" in capsys.readouterr().out) is not quiet
