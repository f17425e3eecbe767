"""A run outlives its terminal, and stops well by whatever signal asks it to."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from andon.core.files.folders import latest_checkpoint
from andon.log import of_kind, read_log
from tests.andon.test_bad_input import toml
from tests.small_run import TABLES, write_corpus

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(home: Path, *changes: str) -> list[str]:
    """`andon train` of a small run in `run`."""
    write_corpus(home / "corpus")
    (home / "small.toml").write_text(toml(TABLES))
    andon = [sys.executable, "-m", "andon", "train", "small.toml", "--data", "corpus", "--no-trace", "--out", "run"]
    return [*andon, *(part for change in changes for part in ("--set", change))]


def noted(run: Path) -> list[str]:
    """What the log notes of the run itself."""
    return [record["text"] for record in of_kind(read_log(run), "note")]


def test_a_run_outlives_a_closed_pipe(tmp_path: Path) -> None:
    """Behavior: `andon train ... | head -1` trains to its end, exits 0, and says in its log that nobody reads."""
    line = command(tmp_path, "training.max_steps=8")
    process = subprocess.Popen(line, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, said = process.communicate()
    assert 0 == process.returncode, said
    assert 8 == json.loads((tmp_path / "run" / "result.json").read_text())["steps"]
    assert any("Broken pipe; the run goes on" in text for text in noted(tmp_path / "run"))


def test_a_run_outlives_a_full_disk_under_its_output(tmp_path: Path) -> None:
    """Behavior: the same where what it prints finds no room."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(tmp_path, "training.max_steps=8"),
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert 0 == done.returncode, done.stderr
    assert any("No space left on device; the run goes on" in text for text in noted(tmp_path / "run"))


def stopped(home: Path, number: int, *before: str) -> subprocess.Popen[bytes]:
    """A long run that was sent a signal after its sixth step."""
    line = [*before, *command(home, "training.epochs=200")]
    process = subprocess.Popen(line, cwd=home, env=ENVIRONMENT, stdout=subprocess.PIPE)
    log = home / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_bytes().splitlines()) > 5):
        assert process.poll() is None
        os.sched_yield()  # the loop ends by what it sees, not by time
    process.send_signal(number)
    return process


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_slurm_stop_a_run_well(number: signal.Signals, tmp_path: Path) -> None:
    """Behavior: as SIGTERM does: after the step, with a checkpoint, by exit code 128+n."""
    process = stopped(
        tmp_path, number, "env", f"--default-signal={number.name}"
    )  # whoever runs the tests may ignore it
    output, _ = process.communicate()
    assert 128 + number == process.returncode, output
    assert f"stopped by {number.name}".encode() in output
    newest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert f"step-{read_log(tmp_path / 'run')[-1]['step']:08d}" == newest.name


def test_under_nohup_a_closed_terminal_stops_nothing(tmp_path: Path) -> None:
    """Behavior: a signal that is ignored when the run starts stays so."""
    process = stopped(tmp_path, signal.SIGHUP, "nohup")
    seen = len((tmp_path / "run" / "log.jsonl").read_bytes().splitlines())
    while len((tmp_path / "run" / "log.jsonl").read_bytes().splitlines()) < seen + 5:
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert 128 + signal.SIGTERM == process.returncode
