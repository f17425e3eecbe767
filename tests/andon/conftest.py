"""A model to fine-tune, trained once, and a small project behind gates."""

import json
from pathlib import Path

import pytest

from tests.andon.small_gates import CLAIM, FAULT, FILE
from tests.andon.test_bad_input import toml
from tests.small_run import TABLES, write_corpus
from tests.tuning import andon


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run in `base`, its `small.toml`, texts in `corpus`, samples in `samples.jsonl`."""
    home = tmp_path_factory.mktemp("home")
    write_corpus(home / "corpus")
    (home / "small.toml").write_text(toml(TABLES))
    samples = [{"prompt": f"a{n} b{n} ", "completion": f"c{n} d{n % 3}"} for n in range(12)]
    (home / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    command = ("train", str(home / "small.toml"), "--data", str(home / "corpus"), "--out", str(home / "base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        result = andon(*command, "--no-trace", "--quiet")
    assert 0 == result.exit_code, result.output
    return home


@pytest.fixture
def tuning(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where commands run, in which all of that can be named."""
    for path in trained.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_gates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a gates file, an injected fault and a claim; the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "andon.toml").write_text(FILE)
    (tmp_path / "code.txt").write_text("good\n")
    (tmp_path / "faults.toml").write_text(FAULT.format("bad").replace("text.lines", "bad"))
    (tmp_path / "claims.toml").write_text(CLAIM)
    return tmp_path
