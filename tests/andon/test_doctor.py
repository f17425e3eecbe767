"""`andon doctor`: what is wrong in a run's folder, with the command that mends it; it writes nothing."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from andon.core.files.folders import checkpoints
from andon.core.files.manifest import read_manifest, record_files, write_manifest
from andon.runs import examination
from tests.andon.test_bad_input import refused
from tests.tuning import andon

pytestmark = pytest.mark.tier3


@pytest.fixture
def run(tuning: Path) -> Path:
    """A finished run, to be spoilt."""
    shutil.copytree((tuning / "base").resolve(), tuning / "run")
    return tuning / "run"


def newest(run: Path) -> Path:
    """The newest checkpoint."""
    return checkpoints(run / "checkpoints")[0]


def poison(run: Path) -> None:
    """NaN in a weight of the newest checkpoint, sealed as if it had been saved so."""
    folder = newest(run)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": record_files(folder)}))


def older_torch(run: Path) -> None:
    """Another version of torch in the newest manifest."""
    manifest = read_manifest(newest(run))
    write_manifest(newest(run), manifest.model_copy(update={"environment": manifest.environment | {"torch": "1.0.0"}}))


def cut_log(run: Path) -> None:
    """Two steps less."""
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] not in (2, 3)))


def undelivered(run: Path) -> None:
    """A trace of which an endpoint took the first byte."""
    (run / "trace.jsonl").write_text("{}\n{}\n")
    (run / "trace.jsonl.sent.json").write_text('{"http://localhost:4318/v1/traces": 3}')


def closed_part(run: Path) -> None:
    """A trace of two parts, whose second is shorter than what an endpoint took of the first."""
    (run / "trace.000001.jsonl").write_text("{}\n{}\n{}\n")
    (run / "trace.jsonl").write_text("{}\n")
    (run / "trace.jsonl.sent.json").write_text('{"http://localhost:4318/v1/traces": 9}')


def all_but_a_torn_line(run: Path) -> None:
    """A trace that was delivered but for a line that a kill has torn."""
    (run / "trace.jsonl").write_text('{}\n{"res')
    (run / "trace.jsonl.sent.json").write_text('{"http://localhost:4318/v1/traces": 3, "refused": {"x": 1}}')


def shorten(path: Path) -> None:
    """A byte less."""
    path.write_bytes(path.read_bytes()[:-1])


AILMENTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a damaged newest": (
        lambda run: shorten(newest(run) / "model.safetensors"),
        "truncated",
        "--resume run --previous",
    ),
    "a poisoned newest": (poison, "model.norm.weight holds NaN or inf", "--resume run --previous"),
    "a damaged older one": (
        lambda run: shorten(checkpoints(run / "checkpoints")[1] / "model.safetensors"),
        "truncated",
        "rm -r run/checkpoints/step-",
    ),
    "no checkpoint": (lambda run: shutil.rmtree(run / "checkpoints"), "holds no checkpoint", "start a new run"),
    "half a save": (
        lambda run: (run / "checkpoints" / ".step-00000099.partial").mkdir(),
        "left by a killed process",
        "andon train --resume run: its start removes it",
    ),
    "half a file": (lambda run: (run / ".log.jsonl.7.tmp").touch(), "left by a killed process", "--resume run"),
    "a hole in the log": (cut_log, "steps 2 to 3 are missing", "nothing restores them"),
    "a changed log": (
        lambda run: (run / "log.jsonl").write_text((run / "log.jsonl").read_text().replace("0.", "1.")),
        "is not the log that result.json sums up",
        "--resume run",
    ),
    "spans left": (
        undelivered,
        "spans that were not delivered",
        "andon trace replay run --otlp http://localhost:4318/v1/traces",
    ),
    "spans left in a closed part": (closed_part, "spans that were not delivered", "andon trace replay run --otlp http"),
    "a damaged note": (
        lambda run: (run / "trace.jsonl.sent.json").write_text("["),
        "trace.jsonl.sent.json is damaged",
        "delete it, and everything is sent again",
    ),
    "another torch": (older_torch, "was saved by torch 1.0.0", "pip install torch==1.0.0"),
    "no config": (lambda run: (run / "config.json").unlink(), "killed before it wrote config.json", "--out run"),
}


@pytest.mark.parametrize("case", AILMENTS)
def test_an_ailment_is_named_with_what_mends_it(case: str, run: Path) -> None:
    """Behavior: exit code 1, what is wrong and where; nothing is written."""
    spoil, what, mend = AILMENTS[case]
    spoil(run)
    before = files(run)
    result = andon("doctor", "run")
    assert 1 == result.exit_code, result.output
    assert what in result.output
    assert mend in result.output
    assert before == files(run)


def files(run: Path) -> dict[str, str]:
    """Each file below a folder, with its digest."""
    found = [path for path in run.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_a_damaged_configuration_is_mended_by_the_one_that_it_came_from(run: Path) -> None:
    """Behavior: the command that is named resumes the run, and nothing is wrong any more."""
    whole = (run / "config.json").rename("whole.json")
    (run / "config.json").write_text("[")
    result = andon("doctor", "run")
    assert "run/config.json: is not valid JSON" in result.output
    assert "andon train CONFIG --resume run, with the file that it was started with" in result.output
    assert 0 == andon("train", str(whole), "--resume", "run").exit_code
    assert "run: nothing wrong\n" == andon("doctor", "run").output


def test_a_whole_run_is_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: exit code 0; a disk without room for the next save is the one thing it then lacks."""
    result = andon("doctor", "run")
    assert (0, "run: nothing wrong\n") == (result.exit_code, result.output)
    all_but_a_torn_line(run)
    assert andon("doctor", "run").output == "run: nothing wrong\n"
    monkeypatch.setattr(examination, "ROOM", 1e15)
    assert "MB free, and the next checkpoint takes" in andon("doctor", "run").output
    refused(andon("doctor", str(run.parent / "corpus")), "is not a run's folder")
