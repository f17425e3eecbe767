"""Behind the door a script computes what it computes alone: losses, gradients and weights, to the bit."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.door.cases import Case, cases
from tests.door.live import PROBE
from tests.door.process import Done, run
from tests.small_run import write_corpus

ROOT = Path(__file__).parents[2]
OWN, PROGRAM = ROOT / "tests" / "door" / "scripts", ROOT / "tests" / "detectors" / "script"
SCRIPTS = ("names_lstm", "nano_text", "seq_to_seq_dates", "swiss_roll_ddpm", "bytegpt")
MODEL = ROOT / "tests" / "bench" / "door_script.py"
TRAIN = ["-m", "andon", "train", "config.toml", "--data", "corpus", "--out", "run", "--no-trace", "-q"]
DOOR = (sys.executable, "-m", "andon", "verify", "--budget", "600", "--quiet", "--")


def named(name: str) -> Case:
    """A program with its files and its runs."""
    if name == "language":
        return Case(name, "clean", "", {"train.py": (OWN / "language.py").read_text(encoding="utf-8")}, [["train.py"]])
    if name == "10 M parameters":
        return Case(name, "clean", "", {"train.py": MODEL.read_text(encoding="utf-8")}, [["train.py", "6"]])
    if name == "andon train":
        config = (ROOT / "tests" / "faults" / "door.toml").read_text(encoding="utf-8")
        return Case(name, "clean", "", {"config.toml": config}, [TRAIN])
    found = cases(PROGRAM if name == "bytegpt" else OWN)
    return next(each for each in found if each.kind == "clean" and each.program == name)


def probed(case: Case, folder: Path, door: tuple[str, ...]) -> tuple[dict[str, Any], Done]:
    """What the probe notes of a program's first run, alone or behind the door."""
    folder.mkdir()
    case.write(folder)
    write_corpus(folder / "corpus", 16)
    done = run([*door, sys.executable, str(PROBE), "probe.json", *case.runs[0]], folder, 900)
    noted = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    return noted | {"trace": [step[:4] for step in noted["trace"]]}, done


@pytest.mark.tier3
@pytest.mark.parametrize("name", ["shapes_cnn", "language"])
def test_a_short_script_computes_the_same(name: str, tmp_path: Path) -> None:
    """Behavior: norms of weights and gradients, rates and modes of each step, and the last weights, are the same."""
    assert_the_same(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [*SCRIPTS, "10 M parameters", "andon train"])
def test_a_script_computes_the_same(name: str, tmp_path: Path) -> None:
    """Behavior: so are those of longer ones, of 10 million parameters, and of our own command."""
    assert_the_same(name, tmp_path)


@pytest.mark.slow
def test_a_trainer_computes_the_same(tmp_path: Path) -> None:
    """Behavior: so does a script around transformers' Trainer, which is in another environment."""
    assert_the_same("trainer_lm", tmp_path)


def assert_the_same(name: str, folder: Path) -> None:
    """Each step and the last weights, alone and behind the door."""
    case = named(name)
    alone, _ = probed(case, folder / "alone", ())
    seen, done = probed(case, folder / "seen", DOOR)
    assert alone["trace"], "no step was noted"
    assert alone == seen, done.error[-2000:]
