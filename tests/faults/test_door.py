"""The catalogue asked through the door: what counts as live, who names a fault, and what is kept and shown."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.bench import door_tables
from tests.door.ask import Alarm, Answer
from tests.faults import door
from tests.faults.catalogue import FAULTS
from tests.faults.door import Asked, counts, judged, logged, programs

CLIP = next(fault for fault in FAULTS if fault.id == "clip-generator-exhausted")
HALF = next(fault for fault in FAULTS if fault.subjects[0] == "half")


def answer(*alarms: tuple[str, str, str]) -> Answer:
    """Findings by check, light and text."""
    return Answer(tuple(Alarm(*each) for each in alarms), 1.0, 1.0)


@pytest.mark.tier1
def test_times_are_no_difference(tmp_path: Path) -> None:
    """Behavior: a log without its times and counters; a run without a log has left none."""
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.5, "seconds": {"data": 1}, "tokens_per_second": 3}\n')
    assert [{"step": 1, "loss": 2.5}] == logged(tmp_path / "log.jsonl")
    assert [] == logged(tmp_path / "none.jsonl")


@pytest.mark.tier1
def test_a_fault_is_tried_in_the_run_of_its_subject_first() -> None:
    """Behavior: then in a plain run, a resumed one, and where adapters are tuned."""
    assert ["half", "train", "resumed", "lora", "qlora"] == list(programs(HALF))
    assert ["llama"] == list(CLIP.subjects)
    assert ["train", "resumed", "lora", "qlora"] == list(programs(CLIP))


@pytest.mark.tier1
def test_a_base_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: faults that are asked about at the same time tune one base, which is there only once it is whole."""
    made, both = list[Path](), threading.Barrier(2)

    def make(folder: Path) -> None:
        made.append(folder)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.05)
        folder.mkdir()

    monkeypatch.setattr(door, "_make_base", make)
    usual = door.Usual(tmp_path / "base")
    with ThreadPoolExecutor(2) as pool:
        cases = list(pool.map(lambda kind: usual.case("none", kind), ("lora", "qlora")))
    assert [tmp_path / "base"] == made
    assert all(str(tmp_path / "base") in each.runs[0] for each in cases)


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("said", "light", "check"),
    [
        (("run.x", "yellow", "gradients are clipped twice"), "yellow", "run.x"),
        (("clipping.bound", "red", "a norm"), "red", "clipping.bound"),  # by the catalogue's own list
        (("run.x", "red", "a loss"), "missed", ""),
        (("run.usual", "red", "gradients are clipped twice"), "missed", ""),  # said of the run without it, too
    ],
)
def test_a_fault_is_named_by_a_finding_that_states_it(said: tuple[str, str, str], light: str, check: str) -> None:
    """Behavior: by a word of its area, or by a check that the catalogue says names it; not by what is always said."""
    row = judged(CLIP, "train", answer(said), frozenset({"red run.usual"}))
    assert (light, check, "train") == (row.light, row.check, row.program)


@pytest.mark.tier1
def test_what_is_counted_and_shown() -> None:
    """Behavior: shares are of what is live; each fault is a line of the table."""
    rows = [
        Asked("a", "loss", "train", "red", "loss.scale", first=True),
        Asked("b", "loss", "lora", "missed"),
        Asked("c", "loss"),
    ]
    found = counts(rows)
    assert {"asked": 3, "live": 2, "red": 1, "yellow": 0, "missed": 1, "unmeasured": 0, "first": 1} == found
    assert 0.5 == door.metrics(rows)["named"].value
    assert door.metrics(rows[2:])["named"].value is None
    shown = door_tables.faults_door({"counts": found, "rows": [asdict(row) for row in rows]})
    assert "Of 3 bugs 2 are live in a run; 1 of them are named, 50%" in shown
    assert "| a " in shown
    assert "`loss.scale`" in shown
