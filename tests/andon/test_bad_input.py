"""Bad input on the command line: one clear message, exit code 2, and what was on disk is still whole."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from andon.cli.main import cli
from tests.small_run import TABLES, write_corpus

pytestmark = pytest.mark.tier3


def toml(tables: dict[str, dict[str, object]]) -> str:
    """Flat tables in TOML's spelling."""
    return "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus and small.toml, where the command runs."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus")
    (tmp_path / "small.toml").write_text(toml(TABLES))
    return tmp_path


def andon(*arguments: str) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(cli, list(arguments))


def train(*arguments: str) -> Result:
    """`andon train`, untraced and quiet."""
    return andon("train", "--no-trace", "--quiet", *arguments)


def content(folder: Path) -> dict[str, str]:
    """A hash of each file below a folder, locks aside."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(result: Result, *parts: str) -> None:
    """The outcome of a user's mistake: code 2, no traceback, and every part in what was said."""
    assert 2 == result.exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.output


@pytest.fixture
def finished(home: Path) -> Path:
    """A finished run's folder."""
    result = train("small.toml", "--data", "corpus", "--out", "run")
    assert 0 == result.exit_code, result.output
    return home / "run"


CORPORA: dict[str, tuple[Callable[[Path], str], tuple[str, ...]]] = {
    "missing": (lambda home: "nowhere.txt", ("nowhere.txt",)),
    "glob without match": (lambda home: "corpus/*.md", ("corpus/*.md",)),
    "empty file": (lambda home: written(home / "empty.txt", b""), ("empty",)),
    "empty folder": (lambda home: (home / "none").mkdir() or "none", ("none",)),
    "binary": (lambda home: written(home / "corpus" / "image.txt", b"\x89PNG\x00\x01"), ("image.txt", "not text")),
    "broken JSONL": (lambda home: written(home / "a.jsonl", b'{"text": "a"}\n{"text": \n'), ("a.jsonl:2",)),
    "JSONL without the field": (lambda home: written(home / "b.jsonl", b'{"body": "a"}\n'), ("b.jsonl:1", "text")),
}


def written(path: Path, data: bytes) -> str:
    """The name of a new file."""
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("case", CORPORA)
def test_corpus_is_refused(case: str, home: Path) -> None:
    """Behavior: a corpus that is missing, empty, binary or broken is refused by name."""
    make, parts = CORPORA[case]
    refused(train("small.toml", "--data", make(home), "--out", "run"), *parts)
    assert not list((home / "run").glob("checkpoints/*"))


def test_corpus_shorter_than_a_sequence_is_refused(home: Path) -> None:
    """Behavior: too little text for one sequence is refused with both lengths."""
    for name in "ab":
        (home / f"{name}.txt").write_text(f"{name} few words")
    result = train("small.toml", "--data", "*.txt", "--out", "run", "--set", "data.sequence_length=64")
    refused(result, "less than one sequence", "64")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("training.learning_rte=1", "did you mean 'training.learning_rate'"),
        ("training.max_grad_norm=1.0", "the right key is 'training.grad_clip'"),
        ("model.n_layer=2", "the right key is 'model.num_hidden_layers'"),
        ("training.learning_rate='3e-4'", "training.learning_rate='3e-4'"),
        ("model.hidden_size=18", "hidden_size=18 is not divisible by num_attention_heads=4"),
        ("training", "--set training: expected table.key=value"),
    ],
)
def test_configuration_is_refused(override: str, part: str, home: Path) -> None:
    """Behavior: a wrong key, another framework's key, a wrong type and an impossible shape are refused by name."""
    refused(train("small.toml", "--data", "corpus", "--out", "run", "--set", override), part)
    assert not (home / "run").exists()


@pytest.mark.usefixtures("home")
def test_missing_configuration_is_refused() -> None:
    """Behavior: a configuration that is not there is refused by name."""
    refused(train("absent.toml"), "absent.toml", "configs/tiny.toml")


def test_foreign_vocabulary_is_refused(finished: Path) -> None:
    """Behavior: a tokenizer with ids beyond the model's vocabulary is refused with the size that would do."""
    given = next(finished.glob("checkpoints/*/tokenizer.json"))
    largest = max(json.loads(given.read_text())["model"]["vocab"].values())
    changes = ("--set", f"data.tokenizer={given}", "--set", f"model.vocab_size={largest}")
    result = train("small.toml", "--data", "corpus", "--out", "b", *changes)
    refused(result, "tokenizer.json", f"model.vocab_size={largest}", f"model.vocab_size={largest + 1}")


def test_second_run_in_one_folder_is_refused(finished: Path) -> None:
    """Behavior: a folder that holds a run takes no second one, and the first stays as it was."""
    before = content(finished)
    refused(train("small.toml", "--data", "corpus", "--out", "run"), "holds a run already", "--resume run")
    assert before == content(finished)


def test_concurrent_run_in_one_folder_is_refused(finished: Path) -> None:
    """Behavior: while one process writes into a folder, another is turned away."""
    with FileLock(finished / "run.lock"):
        refused(train("--resume", str(finished)), "another run is writing here")


def test_resume_with_another_shape_is_refused(finished: Path) -> None:
    """Behavior: a checkpoint of another shape is refused with key and both values, and the run stays as it was."""
    before = content(finished / "checkpoints")
    result = train("--resume", str(finished), "--set", "model.hidden_size=32")
    refused(result, "model.hidden_size=16 in the checkpoint and 32 in this run")
    assert before == content(finished / "checkpoints")
    assert 0 == train("--resume", str(finished)).exit_code


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_damaged_checkpoint_is_refused_and_the_previous_one_used(finished: Path, name: str) -> None:
    """Behavior: a damaged file is named; `--previous` goes on from the one before and ends as the run had."""
    newest = max((finished / "checkpoints").iterdir())
    loss = json.loads((finished / "result.json").read_text())["validation_loss"]
    damaged = newest / name
    damaged.write_bytes(damaged.read_bytes()[:-7])
    refused(train("--resume", str(finished)), str(damaged), "--previous")
    assert 0 == train("--resume", str(finished), "--previous").exit_code
    assert loss == json.loads((finished / "result.json").read_text())["validation_loss"]


def test_a_finished_run_says_so(finished: Path) -> None:
    """Behavior: resuming a run that has all of its steps trains nothing, and says that it is complete."""
    assert "complete" not in train("--resume", str(finished), "--previous").output
    result = train("--resume", str(finished))
    assert 0 == result.exit_code
    assert f"{finished}: already complete, " in result.output


def test_nothing_to_resume_is_refused(home: Path) -> None:
    """Behavior: a folder without a run cannot be resumed, and is not created."""
    refused(train("--resume", "absent"), "absent", "name the folder of a run, such as reports/runs/<id>")
    assert not (home / "absent").exists()


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "name a CONFIG"),
        (("small.toml", "--previous"), "--previous needs --resume"),
        (("--resume", "run", "--out", "other"), "remove --out"),
    ],
)
def test_usage_is_explained(arguments: tuple[str, ...], part: str) -> None:
    """Behavior: arguments that contradict each other are refused with the next step."""
    refused(train(*arguments), part)


def test_prompt_beyond_the_context_is_refused(finished: Path) -> None:
    """Behavior: asking for more tokens than the model has positions is refused with both numbers."""
    result = andon("generate", "--model", str(finished), "--max-new-tokens", "64")
    refused(result, "max_position_embeddings=64", "ask for fewer")
    assert 0 == andon("generate", "--model", str(finished), "--max-new-tokens", "8", "--prompt", "a1").exit_code


@pytest.mark.usefixtures("home")
def test_absent_model_is_refused() -> None:
    """Behavior: a model that is not there is refused by name."""
    refused(andon("generate", "--model", "absent"), "absent")
