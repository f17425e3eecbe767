"""The tier's clock: what others took is what excuses, and nothing of ours is counted as theirs."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from andon.gates import clock
from andon.gates.clock import Reading, read_clock, usage


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("ours", "busy", "lost", "share"),
    [
        (12.0, 12.0, 0.0, 0.0),  # alone: all that was busy was ours
        (12.0, 15.0, 0.0, 0.15),  # neighbors
        (12.0, 12.0, 3.0, 0.15),  # stolen or throttled
        (12.0, 13.0, 2.0, 0.15),  # both
        (12.0, 11.5, 0.0, 0.0),  # ticks are coarser than our own clock: never below nothing
    ],
    ids=["alone", "neighbors", "stolen", "both", "coarse"],
)
def test_share_of_others(ours: float, busy: float, lost: float, share: float) -> None:
    """Behavior: others' share is all CPU that is not ours, plus stolen and throttled, over cores x wall."""
    start = Reading(wall=100.0, ours=5.0, busy=1000.0, lost=7.0)
    end = Reading(wall=110.0, ours=5.0 + ours, busy=1000.0 + busy, lost=7.0 + lost)
    used = usage(start, end, cores=2)
    assert (10.0, ours) == (used.wall_seconds, used.cpu_seconds)
    assert share == pytest.approx(used.others_share)


@pytest.mark.tier1
@pytest.mark.parametrize(("busy", "excused"), [(2.0, False), (2.1, True)], ids=["at", "above"])
def test_only_above_a_tenth_excuses(busy: float, excused: bool) -> None:
    """Behavior: exactly 10% of cores x wall does not excuse; more does."""
    start, end = Reading(0.0, 0.0, 0.0, 0.0), Reading(10.0, 0.0, busy, 0.0)
    assert excused == usage(start, end, cores=2).is_excused


@pytest.mark.tier3
def test_children_that_ended_and_live_count_as_ours() -> None:
    """Behavior: the CPU of ended and of running child processes is ours, so our own tests excuse nothing."""
    spin = "import time\nwhile time.process_time() < 0.4: pass\n"
    start = read_clock()
    subprocess.run([sys.executable, "-c", spin], check=True)
    after_ended = read_clock()
    assert after_ended.ours - start.ours >= 0.35
    with subprocess.Popen(
        [sys.executable, "-c", spin + "print(flush=True)\ninput()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as living:
        assert living.stdout
        living.stdout.readline()
        assert read_clock().ours - after_ended.ours >= 0.35
        living.communicate(b"\n")


@pytest.mark.tier1
def test_clocks_run_forward() -> None:
    """Behavior: two readings on this machine give a share that is not negative."""
    used = usage(read_clock(), read_clock())
    assert used.wall_seconds >= 0
    assert used.others_share >= 0


@pytest.mark.tier2
def test_a_child_that_ends_while_it_is_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the others' user and system time, and that of their own children, still count."""

    class Child:
        def __init__(self, *times: float) -> None:
            self.times = times

        def cpu_times(self) -> tuple[float, ...]:
            if not self.times:
                raise psutil.NoSuchProcess(1)
            return self.times

    before = read_clock().ours
    monkeypatch.setattr("psutil.Process.children", lambda self, recursive: [Child(), Child(100, 200, 300, 400, 5000)])
    assert 900 < read_clock().ours - before < 1100


@pytest.mark.tier2
def test_time_that_a_limit_took_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: read where the control group says so, in its unit; elsewhere, and under another key, there is none."""
    path = tmp_path / "cpu.stat"
    monkeypatch.setattr(
        clock, "THROTTLED", ((tmp_path / "absent", "throttled_usec", 1e-6), (path, "throttled_usec", 1e-6))
    )
    before = read_clock().lost
    path.write_text("usage_usec 7000000000\n")
    assert read_clock().lost - before < 900
    path.write_text("usage_usec 7000000000\nthrottled_usec 1000000000\n")
    assert 900 < read_clock().lost - before < 1100
