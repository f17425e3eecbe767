"""What a copy of the process does with files that are open."""

from pathlib import Path

import pytest
import torch
from torch import nn

from andon.door.fork import Fork
from andon.door.judge import judged
from andon.door.records import Optimizing, Run
from andon.door.safely import safely
from andon.door.windows import CAPTURED_AT, Windows

pytestmark = pytest.mark.tier2


def test_open_files_are_read_apart_and_written_by_the_script_alone(tmp_path: Path) -> None:
    """Behavior: a child reads on from where the script is, which reads on as if it were alone; it writes nothing."""
    (tmp_path / "rows").write_bytes(b"abcdef")
    fork = Fork(tmp_path, 5.0)
    with (tmp_path / "rows").open("rb", buffering=0) as rows, (tmp_path / "log").open("wb", buffering=0) as log:
        assert b"ab" == rows.read(2)
        if fork.begin():
            log.write(b"child")
            fork.end({"read": rows.read(2).decode()})
        log.write(b"script")
        assert [{"read": "cd"}] == fork.gather()
        assert b"cdef" == rows.read()
    assert b"script" == (tmp_path / "log").read_bytes()


def test_what_is_written_between_a_pass_and_its_backward_pass_is_written_once(tmp_path: Path) -> None:
    """Behavior: the child in which a micro-batch is recorded ends before it writes a line of the script's log."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters())
    run = Run(steps=CAPTURED_AT)
    run.optimizing[id(optimizer)] = Optimizing(optimizer, None, model=model, steps=CAPTURED_AT, last_step=CAPTURED_AT)
    windows = Windows(run, {"out": str(tmp_path), "check_budget": 5.0, "checks": True})
    loss = windows.call(model, nn.Module.__call__, (torch.ones(2, 3),), {}, training=True, method=False).sum()
    with (tmp_path / "log").open("a") as log:
        log.write("a line\n")
    windows.backward(loss)
    (answer,) = windows.fork.gather()
    assert "before the script writes" in answer["reason"]
    assert "a line\n" == (tmp_path / "log").read_text()


def test_an_error_of_ours_ends_the_watching_and_not_the_script(tmp_path: Path) -> None:
    """Behavior: the note's error is kept for the end, nothing more is noted; a copy of the process ends with it."""

    def note(_: int) -> None:
        raise KeyError("ours")

    run = Run()
    windows = Windows(run, {"out": str(tmp_path), "check_budget": 5.0, "checks": True})
    if windows.fork.begin():
        safely(run, note, 1)
    assert [{"failed": "KeyError: 'ours'"}] == windows.fork.gather()
    assert safely(run, note, 1) is None
    assert (True, "KeyError: 'ours'") == (run.over, run.broke)
    assert any("Andon's own" in line for line in judged(run, [])["captured"])
