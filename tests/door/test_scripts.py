"""`andon verify -- python train.py`: a correct script passes, unchanged to the bit; each fault is named."""

import sys
from pathlib import Path

import pytest

from tests.door.conftest import Door

PYTHON = (sys.executable, "train.py")
FORWARD = "import torch\ntorch.nn.Linear(2, 1)(torch.ones(1, 2))"
ASKED = "import importlib.util\nassert importlib.util.find_spec('torch')\n"  # as libraries do before they import it
STEP = "        optimizer.step()\n"
CLIP = "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
EVERY = "        if step % 8 == 7:\n"
MADE = "    schedule ="
LOGITS = "model(rows[:, :-1])\n"
FAULTS = {
    "a mask that is missing": ("is_causal=True", "is_causal=False", "attention.causality", "red"),
    "gradients left over": ("        optimizer.zero_grad()\n", "", "watch.zero_grad", "red"),
    "clipping after the step": (CLIP + STEP, STEP + CLIP, "run.clip_order", "red"),
    "a part of the loss detached": ("self.drop(x)", "self.drop(x.detach())", "watch.gradients", "red"),
    "a schedule by epochs": (
        "        schedule.step()\n" + EVERY, EVERY + "            schedule.step()\n", "run.schedule_length", "yellow"
    ),
    "labels shifted twice": (
        LOGITS, "model(rows[:, :-1])[:, :-1]\n    rows = rows[:, 1:]\n", "data.targets", "red"
    ),
    "evaluation in train mode": ("    model.eval()\n", "", "run.eval_mode", "red"),
    "held-out rows that are trained on": ("data[96:]", "data[:64]", "run.held_out", "yellow"),
    "a head made after the optimizer": (
        MADE, "    model.head = nn.Linear(WIDTH, WORDS)\n" + MADE, "watch.stale", "red"
    ),
    "a wider head after the optimizer": (
        MADE, "    model.head = nn.Linear(WIDTH, WORDS + 1)\n" + MADE, "run.membership", "red"
    ),
}  # fmt: skip


@pytest.mark.long
def test_a_correct_script_passes_and_trains_the_same(door: Door) -> None:
    """Behavior: exit code 0, nothing found, what the script prints is what it prints alone, weights to the bit."""
    door.write("language.py")
    alone, seen = door.run(*PYTHON).stdout, door.verify(*PYTHON)
    assert (0, [], alone) == (seen["code"], seen["findings"], seen["stderr"])
    assert "Model" in seen["captured"][0]
    assert "attention.causality" in seen["passed"]


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(door: Door, fault: str) -> None:
    """Behavior: the finding that names the fault is the first, in its light."""
    old, new, check, light = FAULTS[fault]
    door.write("language.py", (old, new))
    seen = door.verify(*PYTHON)
    assert (check, light) == (seen["findings"][0]["check"], seen["findings"][0]["light"]), seen["findings"]
    assert (1 if light == "red" else 0) == seen["code"]


@pytest.mark.long
def test_a_package_and_limits(door: Door) -> None:
    """Behavior: `python -m` works, and the script ends after the steps that are allowed, with nothing left behind."""
    (door.folder / "pack").mkdir()
    door.write("language.py", name="pack/train.py")
    seen = door.verify(sys.executable, "-m", "pack.train", options=("--steps", "5", "--watch-only"))
    assert (0, "5 steps" in seen["captured"][0]) == (seen["code"], True)
    assert "weights" not in seen["stderr"]


@pytest.mark.long
def test_another_sitecustomize_still_runs(door: Door) -> None:
    """Behavior: a `sitecustomize` of the user's own is run as before."""
    own = door.folder / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("print('mine')\n")
    (door.folder / "train.py").write_text("print('done')\n")
    seen = door.run(
        sys.executable, "-m", "andon", "verify", "--", *PYTHON, PYTHONPATH=f"{own}:{Path(__file__).parents[2]}"
    )
    assert "mine\ndone\n" in seen.stdout


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        pytest.param("print('no torch')\n", 3, "no Python process", marks=pytest.mark.tier3),
        pytest.param(f"{FORWARD}.sum().backward()\n", 3, "no step", marks=pytest.mark.long),
        pytest.param(f"{ASKED}{FORWARD}.sum().backward()\n", 3, "no step", marks=pytest.mark.tier3),
        pytest.param(f"{FORWARD}\n", 3, "no backward pass followed", marks=pytest.mark.long),
        pytest.param("import sys\nsys.exit(7)\n", 7, "exit code 7", marks=pytest.mark.long),
    ],
)
def test_what_cannot_be_judged_is_said_in_a_line(door: Door, source: str, code: int, said: str) -> None:
    """Behavior: exit code 3 and why; a command that fails keeps its own code."""
    (door.folder / "train.py").write_text(source)
    seen = door.verify(*PYTHON)
    assert code == seen["code"]
    assert said in seen["not_measured"]
