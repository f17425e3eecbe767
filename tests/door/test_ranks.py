"""`andon watch -- torchrun`: ranks are watched like any process, and what they find alike is said once."""

import sys
from pathlib import Path

import pytest

from tests.door.conftest import Door

pytestmark = pytest.mark.long
TORCHRUN = (str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2", "train.py")
CLIP = "            nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
STEP = "            optimizer.step()\n"
DETACHED = (
    ("self.drop(x)", "self.drop(x.detach())"),
    ("DistributedDataParallel(Model())", "DistributedDataParallel(Model(), find_unused_parameters=True)"),
)


def watched(door: Door, *edits: tuple[str, str]) -> tuple[int, str, str]:
    """Exit code, stdout, and what of stderr is ours."""
    door.write("two_ranks.py", *edits)
    done = door.run(sys.executable, "-m", "andon", "watch", "-q", "--", *TORCHRUN)
    ours = [line for line in done.stderr.splitlines() if "torch/distributed" not in line]
    return done.returncode, done.stdout, "\n".join(ours)


def test_correct_ranks_pass(door: Door) -> None:
    """Behavior: nothing red, each rank's steps seen, the script's output its own; no rank is said twice."""
    code, out, said = watched(door)
    assert 0 == code, said
    assert 3 == len(out.splitlines()) == out.count("epoch")
    assert 1 == said.count("24 steps")
    assert "RED" not in said
    assert "andon: red" not in said


def test_what_ranks_find_alike_is_said_once(door: Door) -> None:
    """Behavior: in the step that shows it by one rank, and in one finding at the end."""
    code, _, said = watched(door, *DETACHED)
    assert (1, 1, 1) == (code, said.count("andon: red watch.gradients: step 5"), said.count("RED watch.gradients"))


def test_what_the_whole_run_of_ranks_shows_is_said_once(door: Door) -> None:
    """Behavior: a statement about the run that each rank finds broken is one finding."""
    code, _, said = watched(door, (CLIP + STEP, STEP + CLIP))
    assert (1, 1, 1) == (code, said.count("RED"), said.count("RED run.clip_order"))
