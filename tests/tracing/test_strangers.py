"""Loops of others, recorded by few lines of theirs or none: phases as they time them by hand, and the same numbers."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from andon.tracing.read import RecordedSpan, read_spans
from tests.documents import ROOT

SCRIPTS = Path(__file__).parent / "scripts"
WITHIN = 0.1  # of the time by hand
COVERED = 0.97
Lines = list[tuple[str, str]]
WATCHED: dict[str, Lines] = {
    "plain.py": [
        ("losses = []", "t.watch(model, optimizer)"),
        ("    for x, y in timed(loader):", "    for x, y in t.steps(timed(loader)):"),
    ],
    "accumulating.py": [
        ("losses = []", "t.watch(model, body, head)"),
        (
            "for number, x in enumerate(batches(torch.Generator().manual_seed(1))):",
            "for number, x in enumerate(t.steps(batches(torch.Generator().manual_seed(1)))):",
        ),
    ],
}


def run(*command: str | Path) -> dict[str, Any]:
    """What a script says of itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


def with_lines(name: str, folder: Path) -> Path:
    """A script with the three lines that record it: `with` around its loop, `watch`, and `steps`."""
    head, tail = (SCRIPTS / name).read_text(encoding="utf-8").split("losses = []\n")
    (_, watching), (loop, steps) = WATCHED[name]
    assert 1 == tail.count(loop + "\n")
    body = [watching, "losses = []", *tail.replace(loop + "\n", steps + "\n").splitlines()]
    around = f"from andon import tracing\nwith tracing.run({str(folder)!r}) as t:\n"
    path = folder.parent / name
    path.write_text(head + around + "".join(f"    {line}\n" for line in body), encoding="utf-8")
    return path


def phases_of(spans: list[RecordedSpan]) -> dict[str, float]:
    """Processor seconds of each phase in all steps."""
    steps = {span.span_id for span in spans if span.name == "train.step"}
    found: dict[str, float] = defaultdict(float)
    for span in spans:
        if span.parent_id in steps:
            found[span.name] += span.attributes["train.cpu_seconds"]
    return dict(found)


def covered(spans: list[RecordedSpan]) -> float:
    """The share of the processor time of all steps, and of what lies between them, that is in a phase or between."""
    total = {"train.step": 0.0, "between steps": 0.0}
    for span in spans:
        if span.name in total:
            total[span.name] += span.attributes["train.cpu_seconds"]
    return (sum(phases_of(spans).values()) + total["between steps"]) / sum(total.values())


def assert_as_by_hand(folder: Path, by_hand: dict[str, float], steps: int) -> None:
    """Each phase took what the script measured of itself, and nothing of a step is left out."""
    spans = read_spans(folder / "trace.jsonl").spans
    found = phases_of(spans)
    assert steps == sum(span.name == "train.step" for span in spans)
    for name, seconds in by_hand.items():
        assert seconds == pytest.approx(found[name], rel=WITHIN), (name, found, by_hand)
    assert COVERED <= covered(spans)


@pytest.mark.long
@pytest.mark.parametrize(("name", "steps"), [("plain.py", 24), ("accumulating.py", 20)])
def test_three_lines(name: str, steps: int, tmp_path: Path) -> None:
    """Behavior: two loops with three lines each have the phases they time by hand, and their numbers to the bit."""
    alone = run(sys.executable, SCRIPTS / name)
    recorded = run(sys.executable, with_lines(name, tmp_path / "run"))
    assert (alone["losses"], alone["weights"]) == (recorded["losses"], recorded["weights"])
    assert_as_by_hand(tmp_path / "run", recorded["seconds"], steps)


@pytest.mark.long
def test_no_line(tmp_path: Path) -> None:
    """Behavior: an unchanged script behind `andon trace --` has the phases it times by hand, and its own numbers."""
    folder, script = tmp_path / "run", SCRIPTS / "plain.py"
    alone = run(sys.executable, script)
    recorded = run(sys.executable, "-m", "andon", "trace", "--out", folder, "--", sys.executable, script)
    assert (alone["losses"], alone["weights"]) == (recorded["losses"], recorded["weights"])
    by_hand = recorded["seconds"]
    spans = read_spans(folder / "trace.jsonl").spans
    found = phases_of(spans)
    assert by_hand.pop("backward and clip") == pytest.approx(found["backward"] + found["clip"], rel=WITHIN)
    by_hand.pop("forward")  # the script's own is without the loss
    assert_as_by_hand(folder, by_hand, 24)


@pytest.mark.slow
def test_one_line(tmp_path: Path) -> None:
    """Behavior: a `Trainer` with the callback has the phases that are timed by hand, and its numbers to the bit."""
    script = SCRIPTS / "trainer.py"
    alone = run(sys.executable, script, "", tmp_path / "alone")
    recorded = run(sys.executable, script, tmp_path / "run", tmp_path / "recorded")
    assert (alone["losses"], alone["weights"]) == (recorded["losses"], recorded["weights"])
    assert_as_by_hand(tmp_path / "run", recorded["seconds"], 12)


FAILS = """
import torch

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
print("before")
raise ValueError("mine")
"""


def andon_trace(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """The command's outcome."""
    command = [sys.executable, "-m", "andon", "trace", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_a_script_that_fails_or_does_not_train(tmp_path: Path) -> None:
    """Behavior: the script's exit code and output stay its own; what it did is there; without an optimizer it is 3."""
    script = tmp_path / "train.py"
    script.write_text(FAILS, encoding="utf-8")
    done = andon_trace("--out", tmp_path / "run", "--", sys.executable, script)
    assert (1, "before\n") == (done.returncode, done.stdout)
    assert "ValueError: mine" in done.stderr
    assert "where the time went" in done.stderr
    spans = read_spans(tmp_path / "run" / "trace.jsonl").spans
    assert 3 == sum(span.name == "train.step" for span in spans)
    assert spans[-1].attributes["error.type"] == "ValueError"
    done = andon_trace("--out", tmp_path / "none", "--", sys.executable, "-c", "import torch")
    assert 3 == done.returncode
    assert "not recorded" in done.stderr
    done = andon_trace("--out", tmp_path / "run", "--", sys.executable, script)
    assert (2, "") == (done.returncode, done.stdout)


@pytest.mark.long
def test_a_command_beside_itself(tmp_path: Path) -> None:
    """Behavior: the same command in turn with itself is not slower; one that fails is said."""
    script = tmp_path / "train.py"
    script.write_text(FAILS.replace("range(3)", "range(60)").partition("print")[0], encoding="utf-8")
    command = f"{sys.executable} {script}"
    done = andon_trace("diff", "--pair", "3", "--slower", "100%", command, command)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "nothing is slower" in done.stdout
    done = andon_trace("diff", "--pair", "3", command, f"{sys.executable} -c raise")
    assert 1 == done.returncode
    assert "nothing is compared" in done.stderr
