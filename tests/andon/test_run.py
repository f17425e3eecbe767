"""A run's folder: what it holds at the end, when it is stopped, and that tracing changes nothing."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from andon.core.files.folders import latest_checkpoint
from andon.core.files.manifest import read_manifest
from andon.core.machine import cpu_model
from andon.core.training import loop as training
from andon.log import of_kind, read_log
from andon.runs.folder import RunError
from andon.runs.run import run
from andon.sealing import unseal
from andon.tracing import send
from andon.tracing.read import read_spans
from tests.andon.test_bad_input import toml
from tests.small_run import TABLES, small_config, write_corpus

ROOT = Path(__file__).parents[2]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A corpus, in the folder where everything runs."""
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus")


def newest_name(folder: Path) -> str:
    """The newest checkpoint's name."""
    newest = latest_checkpoint(folder / "checkpoints")
    assert newest
    return newest.name


def losses(folder: Path) -> list[float]:
    """Every logged loss, validation's too."""
    return [line["loss"] for line in read_log(folder)]


@pytest.mark.tier3
def test_tracing_changes_nothing(paths: list[str], tmp_path: Path) -> None:
    """Behavior: losses with and without tracing are bitwise equal, and the trace holds each step with its phases."""
    config = small_config(paths)
    run(config, tmp_path / "traced", quiet=True)
    run(config, tmp_path / "plain", traced=False, quiet=True)
    assert losses(tmp_path / "traced") == losses(tmp_path / "plain")
    assert not (tmp_path / "plain" / "trace.jsonl").exists()
    spans = read_spans(tmp_path / "traced" / "trace.jsonl").spans
    steps = {span.span_id: span for span in spans if span.name == "train.step"}
    records = [line for line in read_log(tmp_path / "traced") if line["kind"] == "step"]
    assert [line["step"] for line in records] == [span.attributes["train.step"] for span in steps.values()]
    forwards = [span for span in spans if span.name == "forward"]
    assert 3 * len(records) == len(forwards)  # three micro-batches a step
    assert {span.parent_id for span in forwards} == set(steps)


@pytest.mark.tier2
def test_folder_holds_the_run(paths: list[str], tmp_path: Path) -> None:
    """Behavior: configuration, log, checkpoints and result lie in the run's folder, and the result sums up the log."""
    config = small_config(paths)
    result = run(config, tmp_path / "run", traced=False, quiet=True)
    records = [line for line in read_log(tmp_path / "run") if line["kind"] == "step"]
    assert json.loads(config.model_dump_json()) == json.loads((tmp_path / "run" / "config.json").read_text())
    written = unseal((tmp_path / "run" / "result.json").read_bytes())
    log = hashlib.sha256((tmp_path / "run" / "log.jsonl").read_bytes()).hexdigest()
    assert result | {"log_sha256": log} == written
    assert sum(line["tokens"] for line in records) == result["tokens"]
    assert losses(tmp_path / "run")[-1] == result["validation_loss"]
    assert 0 == result["exit"] == result["skipped_steps"]


@pytest.mark.tier2
def test_non_finite_run_ends_with_code_5(paths: list[str], tmp_path: Path) -> None:
    """Behavior: a run that keeps overflowing ends with exit code 5 and says what to change; every skip is logged."""
    changes = [("training.learning_rate", 1e30), ("training.grad_clip", 0), ("training.max_skipped_steps", 3)]
    said: list[str] = []
    result = run(small_config(paths, *changes), tmp_path / "run", traced=False, quiet=True, say=said.append)
    assert 5 == result["exit"]
    assert 3 == result["skipped_steps"]
    assert "Lower training.learning_rate" in said[-1]


@pytest.mark.tier3
def test_result_and_checkpoint_name_the_same_cpu(paths: list[str], tmp_path: Path) -> None:
    """Behavior: both name the CPU's model, which the architecture alone is not."""
    result = run(small_config(paths), tmp_path / "run", traced=False, quiet=True)
    folder = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert folder
    named = str(read_manifest(folder).environment["processor"])
    assert named.partition(", ")[0] == result["processor"] == cpu_model()


@pytest.mark.long
def test_without_opentelemetry_the_run_is_traced(paths: list[str], tmp_path: Path) -> None:
    """Behavior: recording needs nothing of OpenTelemetry's; where its packages are missing, spans are written."""
    (tmp_path / "small.toml").write_text(toml(TABLES))
    program = (
        "import sys; sys.modules['opentelemetry'] = None; from andon.cli.main import cli; "
        f"cli(['train', 'small.toml', '--out', 'run', '--data', {paths[0]!r}])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert "train run end" == read_spans(tmp_path / "run" / "trace.jsonl").spans[-1].name


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_after_the_step(number: signal.Signals, paths: list[str], tmp_path: Path) -> None:
    """Behavior: a signal ends the run after its step with a checkpoint, a complete trace and exit code 128+n."""
    (tmp_path / "small.toml").write_text(toml(TABLES))
    andon = [sys.executable, "-m", "andon", "train", "small.toml", "--data", *paths, "--set", "training.epochs=200"]
    command = ["env", f"--default-signal={number.name}", *andon]  # whoever runs the tests may ignore it
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--out", "run"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and len(log.read_bytes().splitlines()) > 5):
        assert process.poll() is None
        os.sched_yield()  # the loop ends by what it sees, not by time
    process.send_signal(number)
    output, _ = process.communicate()
    assert 128 + number == process.returncode, output
    assert f"stopped by {number.name}".encode() in output
    stopped = read_log(tmp_path / "run")[-1]["step"]
    assert f"step-{stopped:08d}" == newest_name(tmp_path / "run")
    assert "train run end" == read_spans(tmp_path / "run" / "trace.jsonl").spans[-1].name


@pytest.mark.tier3
def test_stop_is_noticed_between_steps(paths: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """Behavior: a signal in the middle of a step lets the step finish; the resumed run equals the undisturbed one."""
    config = small_config(paths, ("checkpoint.every_steps", 0))
    run(config, tmp_path / "whole", traced=False, quiet=True)
    backward = 0

    def interrupting(name: str, **attributes: object) -> Any:
        nonlocal backward
        backward += name == "backward"
        if backward == 5 and name == "backward":
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(name, **attributes)

    plain = training.no_span
    monkeypatch.setattr(training, "no_span", interrupting)
    assert 128 + signal.SIGTERM == run(config, tmp_path / "run", traced=False, quiet=True)["exit"]
    assert "step-00000002" == newest_name(tmp_path / "run")
    assert [] == of_kind(read_log(tmp_path / "run"), "validation")  # a signal does not wait for one
    assert 0 == run(config, tmp_path / "run", resume=True, traced=False, quiet=True)["exit"]
    whole = [line["loss"] for line in read_log(tmp_path / "whole") if line["kind"] == "step"]
    assert whole == [line["loss"] for line in read_log(tmp_path / "run") if line["kind"] == "step"]


@pytest.mark.tier3
def test_nothing_to_resume_is_refused(paths: list[str], tmp_path: Path) -> None:
    """Behavior: a folder without a run, a run without a checkpoint, and one without an earlier checkpoint."""
    config = small_config(paths)
    with pytest.raises(RunError, match=r"none: holds no run to resume; name a folder such as reports/runs/<id>"):
        run(config, tmp_path / "none", resume=True, traced=False, quiet=True)
    assert not (tmp_path / "none").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    for previous, said in ((False, "no checkpoint yet"), (True, "no checkpoint before the last one")):
        with pytest.raises(RunError, match=f"run: {said}; start a new run with another --out"):
            run(config, tmp_path / "run", resume=True, previous=previous, traced=False, quiet=True)


@pytest.mark.tier3
def test_spans_that_did_not_arrive_are_said(paths: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """Behavior: the run ends well, and says how many, where, and what sends them."""
    monkeypatch.setattr(send, "CLOSE_SECONDS", 0.1)
    said: list[str] = []
    dead = "http://127.0.0.1:1"
    assert 0 == run(small_config(paths), tmp_path / "run", quiet=True, otlp=dead, say=said.append)["exit"]
    count = len(read_spans(tmp_path / "run" / "trace.jsonl").spans)
    assert said[-1].startswith(f"{count} spans did not reach {dead}/v1/traces (")
