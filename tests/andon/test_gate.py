"""`andon gate` from outside: what a person sees, what a program reads, and how it stops."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from andon.tracing.read import read_spans
from tests.commands import bare

CHECKOUT = Path(__file__).parents[2]
FILE = """
[[tiers]]
name = "small"
summary = "s"
budget_seconds = 60
[[measures]]
name = "good"
tier = "small"
command = "{python} -c 'print(1)'"
next = "n"
[[measures]]
name = "bad"
tier = "small"
command = "{python} -c 'raise SystemExit(\\"injected\\")'"
next = "mend it"
"""


def andon(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder that has a gates file."""
    (folder / "gates.toml").write_text(FILE.format(python=sys.executable))
    command = [sys.executable, "-P", "-m", "andon", "gate", *arguments]
    command += [] if "--config" in arguments else ["--config", "gates.toml"]
    environment |= bare(PYTHONPATH=str(CHECKOUT), PATH="")
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.tier2
def test_a_red_step_shows_what_failed_and_how_to_see_it_alone(tmp_path: Path) -> None:
    """Behavior: each step is a line with its time; the red one shows its output, its command and the next step."""
    done = andon(tmp_path, "run", "small")
    assert (1, "") == (done.returncode, done.stderr)
    steps, _, verdict = done.stdout.partition("small RED: bad (2 of 3 checks pass)\n")
    assert ["pass", "RED"] == [line.split()[0] for line in steps.splitlines() if line.strip()]
    command = f"{sys.executable} -c 'raise SystemExit(\"injected\")'"
    assert all(part in verdict for part in ("found      injected", f"reproduce  {command}", "next       mend it"))
    assert "\x1b" not in done.stdout


@pytest.mark.tier3
def test_json_is_json_alone(tmp_path: Path) -> None:
    """Behavior: --format json prints one JSON document; judging again afterwards says the same and runs nothing."""
    done = andon(tmp_path, "run", "small", "--format", "json")
    assert (1, "RED") == (done.returncode, json.loads(done.stdout)["answer"])
    log = tmp_path / "reports" / "evidence" / "bad.log"
    written = log.stat().st_mtime_ns
    again = andon(tmp_path, "judge", "small", "--format", "json")
    assert done.stdout == again.stdout
    assert written == log.stat().st_mtime_ns


@pytest.mark.long
def test_a_terminal_shows_what_runs_and_a_dead_endpoint_is_said(tmp_path: Path) -> None:
    """Behavior: lines above a changing part that is gone in the end; the verdict stands without its spans."""
    done = andon(tmp_path, "run", "small", "--otlp", "http://127.0.0.1:1", FORCE_COLOR="1")
    assert 1 == done.returncode
    assert done.stderr.startswith("andon: http://127.0.0.1:1/v1/traces cannot be reached")
    hidden, shown = (done.stdout.index(f"\x1b[?25{switch}") for switch in "lh")  # the cursor
    assert hidden < done.stdout.index("good") < shown < done.stdout.index("small RED")


@pytest.mark.long
def test_a_tier_without_measures_leaves_no_trace(tmp_path: Path) -> None:
    """Behavior: what ran nothing is not a run."""
    (tmp_path / "none.toml").write_text('[[tiers]]\nname = "small"\nsummary = "s"\n')
    done = andon(tmp_path, "run", "small", "--config", "none.toml")
    assert done.stdout.startswith("small ")
    assert not (tmp_path / "reports" / "evidence" / "trace.jsonl").exists()


@pytest.mark.tier2
def test_quiet_starts_with_the_answer(tmp_path: Path) -> None:
    """Behavior: --quiet leaves out the steps."""
    assert andon(tmp_path, "run", "small", "--quiet").stdout.startswith("small RED: bad")


@pytest.mark.tier2
def test_a_mistake_in_the_file_or_the_tier_is_one_message(tmp_path: Path) -> None:
    """Behavior: exit code 2 and one line on stderr."""
    done = andon(tmp_path, "run", "tiny")
    assert (2, "", "andon: there is no tier 'tiny'; known are small\n") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.tier3
def test_a_run_is_a_trace_and_a_line_of_history(tmp_path: Path) -> None:
    """Behavior: a span per measure below the tier's; the verdict is kept once; --output writes what --format names."""
    andon(tmp_path, "run", "small")
    done = andon(tmp_path, "judge", "small", "--format", "sarif", "--output", "reports/small.sarif")
    assert (1, True) == (done.returncode, done.stdout.startswith("small RED: bad"))
    assert "2.1.0" == json.loads((tmp_path / "reports" / "small.sarif").read_text())["version"]
    root, good, bad = read_spans(tmp_path / "reports" / "evidence" / "trace.jsonl").spans
    assert ("RUN small", "good", "bad") == (root.name, good.name, bad.name)
    assert ("failure", 1) == tuple(
        bad.attributes[key] for key in ("cicd.pipeline.task.run.result", "process.exit.code")
    )
    (entry,) = (tmp_path / "reports" / "history.jsonl").read_text().splitlines()
    assert "RED" == json.loads(entry)["answer"]


@pytest.fixture
def listening() -> Iterator[None]:
    """Children of this test hear Ctrl-C, also where the tests themselves run as a background job, which does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.tier3
@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_stopped_run_leaves_no_command_behind(tmp_path: Path, number: int, code: int) -> None:
    """Behavior: a signal, also a pair of them, ends the commands too, leaves no clock and shows in the exit code."""
    fifo, script = tmp_path / "alive", tmp_path / "measure.py"
    script.write_text(f"import signal\nf = open({str(fifo)!r}, 'w')\nf.write('x')\nf.flush()\nsignal.pause()\n")
    measure = f'[[measures]]\nname = "m"\ntier = "t"\nnext = "n"\ncommand = "{sys.executable} {script}"\n'
    (tmp_path / "gates.toml").write_text(f'[[tiers]]\nname = "t"\nsummary = "s"\n{measure}')
    subprocess.run(["mkfifo", fifo], check=True)
    command = [sys.executable, "-P", "-m", "andon", "gate", "run", "t", "--config", "gates.toml"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=bare(PYTHONPATH=str(CHECKOUT), PATH=""), stderr=subprocess.PIPE
    ) as process:
        with fifo.open() as reader:
            assert "x" == reader.read(1)  # the command runs and waits
            for _ in range(20):
                process.send_signal(number)
            assert "" == reader.read()  # its end of the pipe is closed: it is gone
        assert code == process.wait(20)
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()
    assert not (tmp_path / "reports" / "evidence" / "t.json").exists()
