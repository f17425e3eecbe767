"""A run that is killed, or resumed from before, and what its folder holds afterwards."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from andon import files
from andon.core.files.folders import checkpoints
from andon.core.files.manifest import read_manifest
from andon.log import of_kind, read_log
from andon.runs.run import run
from tests.small_run import small_config, write_corpus

pytestmark = pytest.mark.tier3


SLOW: tuple[tuple[str, Any], ...] = (("training.batch_size", 1), ("training.accumulation_steps", 1))  # long epochs


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A corpus, in the folder where everything runs."""
    monkeypatch.chdir(tmp_path)
    return write_corpus(tmp_path / "corpus")


def train(config: Any, **more: Any) -> list[str]:
    """A run in `run`; what it said."""
    said: list[str] = []
    run(config, Path("run"), traced=False, quiet=True, say=said.append, **more)
    return said


def logged() -> list[int]:
    """The steps in the log."""
    return [record["step"] for record in of_kind(read_log(Path("run")), "step")]


def newest_weights() -> str:
    """The digest of the newest checkpoint's weights."""
    return read_manifest(checkpoints(Path("run/checkpoints"))[0]).files["model.safetensors"].sha256


def test_previous_is_remembered(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: resumed from before the last checkpoint and killed before the next, a run goes on from where it was."""
    config = small_config(paths, *SLOW, ("checkpoint.every_steps", 5), ("training.max_steps", 10))
    train(config)
    whole, weights = logged(), newest_weights()
    from andon.core.training import loop

    plain = loop.train

    def dying(state: Any, *arguments: Any, **named: Any) -> Any:
        for record in plain(state, *arguments, **named):
            if record.step == 7:
                raise KeyboardInterrupt
            yield record

    monkeypatch.setattr(loop, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, resume=True, previous=True)
    monkeypatch.setattr(loop, "train", plain)
    assert ["step-00000005"] == [folder.name for folder in checkpoints(Path("run/checkpoints"))]
    assert Path("run/checkpoints/step-00000010.aside").is_dir()
    said = train(config, resume=True)
    assert "resumed run/checkpoints/step-00000005 at step 5" in said
    assert whole == logged() == list(range(1, 11))
    assert weights == newest_weights()


def test_a_log_with_a_hole_is_not_believed(paths: list[str]) -> None:
    """Behavior: steps that were cut out or written twice are named when the run goes on."""
    config = small_config(paths, ("training.max_steps", 6))
    train(config)
    log = Path("run/log.jsonl")
    lines = log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] not in (2, 3)]
    log.write_text("".join([*kept, next(line for line in lines if json.loads(line)["step"] == 1)]))
    said = train(config, resume=True)
    assert any("log.jsonl: steps 2 to 3 are missing and steps 1 are there twice" in line for line in said)


@pytest.mark.parametrize("name", ["config.json", "result.json", "log.jsonl"])
def test_a_kill_before_a_write_leaves_the_file_whole(
    name: str, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behavior: killed once the new content is on its way, the run's file is the old one, and what is left is swept."""
    config = small_config(paths, ("training.max_steps", 4))
    train(config)
    before = (Path("run") / name).read_bytes()

    def killed(descriptor: int) -> None:
        if f".{name}." in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        monkeypatch.setattr(files.os, "fsync", killed)
        try:
            train(config, resume=True)
        finally:
            os._exit(9)
    assert signal.SIGKILL == os.WTERMSIG(os.waitpid(child, 0)[1])
    assert before == (Path("run") / name).read_bytes()
    assert [] != list(Path("run").glob(".*.tmp"))
    train(config, resume=True)
    assert [] == list(Path("run").glob(".*"))


def test_claiming_a_folder_sweeps_it(paths: list[str]) -> None:
    """Behavior: half a save and an old checkpoint beside its successor are gone, one without a successor is back."""
    config = small_config(paths, ("training.max_steps", 6))
    train(config)
    root = Path("run/checkpoints")
    newest, before = checkpoints(root)[:2]
    (root / ".step-00000099.partial").mkdir()
    newest.rename(root / f"{newest.name}.replaced")
    (root / f"{before.name}.replaced").mkdir()
    train(config, resume=True)
    assert {newest.name, before.name} == {path.name for path in root.iterdir()}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("validation.fraction", 0.2),
        ("validation.max_sequences", 1),
        ("training.learning_rate", 0.02),
        ("training.weight_decay", 0.1),
        ("training.grad_clip", 1.0),
        ("training.epochs", 3),
        ("schedule.warmup_steps", 1),
        ("schedule.min_ratio", 0.2),
    ],
)
def test_a_resume_with_another_value_says_so(key: str, value: Any, paths: list[str]) -> None:
    """Behavior: every key on which data or numbers depend is among the notes."""
    train(small_config(paths, ("training.max_steps", 4)))
    said = train(small_config(paths, ("training.max_steps", 4), (key, value)), resume=True)
    assert any(line.startswith(f"not bitwise: {key} ") for line in said)
    assert (key == "validation.fraction") == any("trained on may now be held out" in line for line in said)
