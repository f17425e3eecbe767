"""A run that is stopped after a save and resumed, held to the run that was not: `--resume-command`."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from andon.door.continuation import Resumption, check_continuation
from andon.door.trail import Trail
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.conftest import Door
from tests.door.recorded import light_of

PYTHON = (sys.executable, "train.py")
RESUME = ("--watch-only", "--resume-command", f"{sys.executable} train.py --resume")
FAULTS = {
    "no optimizer state": (
        '        optimizer.load_state_dict(saved["optimizer"])\n',
        "the optimizer begins without a state",
    ),
    "no schedule": (
        '        schedule.load_state_dict(saved["schedule"])\n',
        "the learning rate is 0.00626717, and 0.00565263",
    ),
    "data begun anew": ('        order.set_state(saved["order"])\n', "it is given the rows of step 1 again"),
    "no weights": ('        model.load_state_dict(saved["model"])\n', "a sum of the weights is"),
}


def resumption(**changes: Any) -> Resumption:
    """Six steps, saved after the second and resumed; of the third, what is changed."""
    numbers = [[float(number), float(number)] for number in range(1, 7)]
    whole = [
        {"losses": [each], "rates": [each], "rows": number, "state": [each], "weights": [each]}
        for number, each in enumerate(numbers)
    ]
    return Resumption(whole, whole[:2], [whole[2] | changes, *whole[3:]], "last.pt")


@pytest.mark.tier1
def test_what_differs_first_is_named() -> None:
    """Behavior: nothing where all is alike to rounding; red for what was to be saved, yellow for random numbers."""
    other = [[9.0, 9.0]]
    check_continuation(resumption())
    check_continuation(resumption(losses=[[3.0001, 3.0]]))
    for kind, said in {
        "rates": "the learning rate",
        "state": "a sum of the optimizer's state",
        "weights": "weights",
    }.items():
        with pytest.raises(
            CheckFailed, match=rf"last\.pt after step 2 and resumed, step 3 .*{said} is 9, and 3 is due"
        ):
            check_continuation(resumption(**{kind: other}))
        assert CheckFailed is light_of(check_continuation, resumption(**{kind: other}))
    with pytest.raises(Unusual, match="the loss is 9, and 3 is due"):
        check_continuation(resumption(losses=other))
    with pytest.raises(CheckFailed, match="without a state"):
        check_continuation(resumption(state=[]))


@pytest.mark.tier1
def test_rows_that_come_again_are_red_and_other_rows_are_yellow() -> None:
    """Behavior: rows of an earlier step, in that order, have begun anew; others may be drawn by chance."""
    whole = list(resumption().whole)
    again = [{**each, "rows": number} for number, each in enumerate(whole[2:])]
    with pytest.raises(CheckFailed, match="the rows of step 1 again"):
        check_continuation(Resumption(whole, whole[:2], again, "last.pt"))
    assert Unusual is light_of(check_continuation, resumption(rows=77))


@pytest.mark.tier1
def test_runs_that_do_not_agree_are_not_compared() -> None:
    """Behavior: what differs between two runs of one command is no fault of resuming it."""
    whole = resumption().whole
    for stopped in ([whole[1], whole[1]], [*whole, whole[0]]):
        with pytest.raises(NotApplicable, match="repeats itself: two runs of it differ at step"):
            check_continuation(Resumption(whole, stopped, whole[2:], "last.pt"))


@pytest.mark.tier2
def test_a_trail_notes_each_step() -> None:
    """Behavior: loss, rate, a mark of the rows, the optimizer's state before the step; a save with its step."""
    torch.manual_seed(0)
    trail, model = Trail(), nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    for row in (torch.ones(1, 3), torch.ones(1, 3), torch.zeros(1, 3)):
        trail.note_rows((row,))
        loss = model(row).sum()
        trail.note_loss(loss)
        optimizer.zero_grad()
        loss.backward()
        trail.before_step(optimizer)
        optimizer.step()
        trail.note_save("a.pt")
    first, second, third = trail.steps
    assert ([(0.5, 0.5)], [], 6) == (first.rates, first.state, len(second.state))
    assert first.rows == second.rows != third.rows
    assert first.weights != second.weights
    assert [1, 2, 3] == [steps for _, steps in trail.saved]


@pytest.mark.tier2
def test_a_trail_ends_at_the_step_after_a_save() -> None:
    """Behavior: what is written before any step is no checkpoint of a run."""
    ends: list[int] = []
    optimizer = torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.5)
    trail = Trail(lambda: ends.append(len(trail.steps)))
    trail.note_save("begin.pt")
    trail.before_step(optimizer)
    assert [] == ends
    trail.note_save("part.pt")
    trail.before_step(optimizer)
    assert [1] == ends


@pytest.mark.long
def test_a_run_that_is_resumed_rightly_passes(door: Door) -> None:
    """Behavior: exit code 0, and nothing is left in the folder, though the script saves."""
    door.write("going_on.py")
    seen = door.verify(*PYTHON, options=RESUME)
    assert (0, []) == (seen["code"], seen["findings"])
    assert "run.continuation" in seen["passed"]
    assert ["train.py"] == [each.name for each in door.folder.iterdir()]


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_resumed_run_lacks_is_named(door: Door, fault: str) -> None:
    """Behavior: red, with the step after the save and what differs first."""
    line, said = FAULTS[fault]
    door.write("going_on.py", (line, ""))
    seen = door.verify(*PYTHON, options=RESUME)
    found = {each["check"]: each for each in seen["findings"]}["run.continuation"]
    assert (1, "red") == (seen["code"], found["light"])
    assert found["message"].startswith("saved in part.pt after step 10 and resumed, step 1")
    assert said in found["message"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("torch.manual_seed(3)", "pass"), "two runs of it differ at step 1"),
        (("STEPS, SAVED = 24, 10", "STEPS, SAVED = 24, 99"), "a file that torch.save writes while the command trains"),
        (('torch.load("last.pt"', 'torch.load("none.pt"'), "No such file or directory: 'none.pt'"),
        (('if "--resume" in sys.argv:', 'if "--resume" in sys.argv:\n        sys.exit()'), "no step of a torch.optim"),
        (('torch.load("last.pt"', 'torch.load("old.pt"'), "it read old.pt, which was there before"),
    ],
)
def test_what_cannot_be_compared_is_said(door: Door, edit: tuple[str, str], said: str) -> None:
    """Behavior: exit code 3 and the reason."""
    door.write("going_on.py")
    door.run(*PYTHON)
    (door.folder / "last.pt").rename(door.folder / "old.pt")
    door.write("going_on.py", edit)
    seen = door.verify(*PYTHON, options=RESUME)
    assert 3 == seen["code"]
    assert said in seen["not_resumed"]


@pytest.mark.tier1
def test_an_empty_command_is_refused() -> None:
    """Behavior: usage errors say what to write."""
    from click.testing import CliRunner

    from andon.cli.main import cli

    for words, said in (
        ("", "--resume-command is empty"),
        ("no-such-program x", "there is no program 'no-such-program'"),
    ):
        done = CliRunner().invoke(cli, ["verify", "--resume-command", words, "--", "python", "train.py"])
        assert (2, True) == (done.exit_code, said in done.output)
