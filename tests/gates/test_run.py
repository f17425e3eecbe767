"""Running a tier: commands side by side by lane, and evidence of each that cannot claim more than what ran."""

import json
import shlex
import signal
import sys
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from andon.gates.config import Gates
from andon.gates.evidence import Evidence, Metric, read_evidence, write_evidence
from andon.gates.judge import judge
from andon.gates.run import Commands, Step, run


def python(code: str) -> str:
    """The command that runs a line of Python."""
    return shlex.join([sys.executable, "-c", code])


def gates_of(*measures: dict[str, object], sources: list[str] | None = None) -> Gates:
    """One strict tier "all" with these measures."""
    full = [{"name": f"m{place}", "tier": "all", "next": "n"} | measure for place, measure in enumerate(measures)]
    return Gates.model_validate(
        {"tiers": [{"name": "all", "summary": "s"}], "measures": full, "sources": sources or []}
    )


@pytest.mark.tier2
def test_leaves_evidence_log_and_clock(tmp_path: Path) -> None:
    """Behavior: each command leaves its exit code, its seconds and its output; the tier leaves its clock."""
    run("all", gates_of({"command": python("print('out'); import sys; sys.exit('err')")}), tmp_path)
    evidence = read_evidence("m0.run", tmp_path)
    assert Metric(1, "exit code") == evidence.metrics["exit_code"]
    assert evidence.seconds > 0
    assert "out\nerr\n" == (tmp_path / "m0.log").read_text()
    assert {"wall_seconds", "cpu_seconds", "others_share"} == set(read_evidence("all", tmp_path).metrics)
    assert "out\nerr" == judge("all", gates_of({"command": "x"}), tmp_path).checks[0].detail


@pytest.mark.tier2
def test_a_measure_s_evidence_is_its_own(tmp_path: Path) -> None:
    """Behavior: the runner writes the exit code beside what a command wrote, not into it; an older run's is gone."""
    content = {
        "name": "m0",
        "command": "c",
        "seconds": 1,
        "sources": {"a": "b"},
        "metrics": {"x": {"value": 7, "unit": "u"}},
    }
    write = f"open({str(tmp_path / 'm0.json')!r}, 'w').write({json.dumps(content)!r})"
    for name in ("m0", "m0.run", "m1", "m1.run", "all"):
        write_evidence(Evidence(name, "old", 1.0, {}, {"old": Metric(1.0)}), tmp_path)
    run("all", gates_of({"command": python(write)}, {"command": python("")}), tmp_path)
    left = json.loads((tmp_path / "m0.json").read_text())
    assert left.pop("sha256")
    assert content == left
    assert {"exit_code": Metric(0, "exit code")} == read_evidence("m0.run", tmp_path).metrics
    assert {"m0.json", "m0.run.json", "m1.run.json", "all.json"} == {path.name for path in tmp_path.glob("*.json")}


@pytest.mark.tier2
def test_lanes_run_side_by_side_and_a_lane_in_turn(tmp_path: Path) -> None:
    """Behavior: two lanes meet, which only running together allows; within a lane the file's order holds."""
    here, there, order = (str(tmp_path / name) for name in ("here", "there", "order"))
    meet = "import pathlib, time\npathlib.Path({!r}).touch()\nend = time.monotonic() + 20\n"
    meet += "while not pathlib.Path({!r}).exists(): assert time.monotonic() < end\n"
    note = "open({!r}, 'a').write({!r})"
    gates = gates_of(
        {"command": python(meet.format(here, there) + note.format(order, "1")), "lane": "a"},
        {"command": python(meet.format(there, here)), "lane": "b"},
        {"command": python(note.format(order, "2")), "lane": "a"},
    )
    steps: list[Step] = []
    run("all", gates, tmp_path, steps.append)
    assert [0, 0, 0] == [step.exit_code for step in steps if step.seconds is not None]
    assert "12" == Path(order).read_text()


@pytest.mark.tier3
def test_a_command_that_hangs_is_stopped_with_its_children(tmp_path: Path) -> None:
    """Behavior: past its time a command is killed, and a process that it started too; the log says why."""
    code = "import pathlib, subprocess, sys\n"
    code += "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
    code += f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\nchild.wait()"
    run("all", gates_of({"command": python(code), "timeout_seconds": 1.0}), tmp_path)
    assert 124 == read_evidence("m0.run", tmp_path).metrics["exit_code"].value
    assert "stopped after 1 s" in (tmp_path / "m0.log").read_text()
    status = Path("/proc") / (tmp_path / "pid").read_text() / "stat"
    looks = (not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z" for _ in range(100_000))
    assert any(looks)  # a kill takes effect when the process next runs: look again, but not for ever


@pytest.mark.tier2
def test_a_command_that_does_not_exist_is_red(tmp_path: Path) -> None:
    """Behavior: a missing tool is not a pass: exit code 127 and a log that names it."""
    run("all", gates_of({"command": "no-such-tool --check"}), tmp_path)
    assert 127 == read_evidence("m0.run", tmp_path).metrics["exit_code"].value
    assert "no-such-tool" in (tmp_path / "m0.log").read_text()


@pytest.mark.tier2
def test_an_edit_while_measuring_makes_the_evidence_stale(tmp_path: Path) -> None:
    """Behavior: content is hashed before the command starts, so what it never saw is not vouched for."""
    source = tmp_path / "a.py"
    source.write_text("a = 1\n")
    gates = gates_of({"command": python(f"open({str(source)!r}, 'a').write('b = 2')")}, sources=[str(source)])
    run("all", gates, tmp_path / "evidence")
    assert "stale" in judge("all", gates, tmp_path / "evidence").checks[0].detail


@pytest.mark.tier2
def test_commands_find_this_environment_s_tools_and_print_plainly(tmp_path: Path) -> None:
    """Behavior: tools beside the running Python come first, colors are off, and the measure's own values arrive."""
    code = "import os; print(os.environ['PATH'].split(os.pathsep)[0], os.environ['NO_COLOR'], os.environ['EXTRA'])"
    run("all", gates_of({"command": python(code), "environment": {"EXTRA": "e"}}), tmp_path)
    assert f"{Path(sys.executable).parent} 1 e\n" == (tmp_path / "m0.log").read_text()


@pytest.mark.tier2
def test_a_stopped_run_ends_its_commands_and_starts_none(tmp_path: Path) -> None:
    """Behavior: what runs is killed, and what comes after is not begun."""
    (measure,), commands = gates_of({"command": "tail -f /dev/null"}).measures, Commands()
    with (tmp_path / "log").open("wb") as log:
        process = commands.start(measure, log.fileno(), tmp_path)
        commands.stop()
        assert -signal.SIGKILL == process.wait(10)
        with pytest.raises(CancelledError):
            commands.start(measure, log.fileno(), tmp_path)
