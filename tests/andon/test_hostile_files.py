"""Small files that would never end or fail with a traceback: each is refused by name, soon, and with exit code 2."""

import json
import os
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from andon import reading
from andon.core.files.sums import SUMS
from tests.andon.test_bad_input import refused
from tests.tuning import andon

pytestmark = pytest.mark.tier3

SECONDS = 60  # of a machine that is shared; each takes well under five on one that is not


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """What does not end is a failure, not a hang of the tests."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{SECONDS} s")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture
def model(tuning: Path) -> Path:
    """A model's directory as a stranger publishes it."""
    assert 0 == andon("export", "--model", "base", "--out", "model").exit_code
    (tuning / "model" / SUMS).unlink()
    return tuning / "model"


def change(path: Path, **keys: object) -> None:
    """Keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def pipe(path: Path) -> None:
    """A pipe in a file's place, into which nobody writes."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    """A device in a file's place, which never ends."""
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def header(path: Path, text: str) -> None:
    """A safetensors file with this header and no data."""
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode())


def doubling(path: Path) -> None:
    """A tokenizer whose forty normalizers each double a text."""
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    change(path, normalizer={"type": "Sequence", "normalizers": [step] * 40})


def shard_named(model: Path, name: str) -> None:
    """An index in which one shard has this name."""
    (model / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


DEEP = "[" * 100_000
LONG = "1" * 5000
MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "too many layers": (lambda m: change(m / "config.json", num_hidden_layers=100_000), "num_hidden_layers=100000"),
    "more layers than weights": (lambda m: change(m / "config.json", num_hidden_layers=2000), "those of 2 layers"),
    "a size of 2^62": (lambda m: change(m / "config.json", vocab_size=1 << 62), "vocab_size"),
    "a width of 2^62": (lambda m: change(m / "config.json", hidden_size=1 << 62), "hidden_size"),
    "a deep config": (lambda m: (m / "config.json").write_text(DEEP), "config.json: is not valid JSON"),
    "a long number": (lambda m: (m / "config.json").write_text(f'{{"a": {LONG}}}'), "5000 digits"),
    "a pipe for the config": (lambda m: pipe(m / "config.json"), "config.json: is not a regular file"),
    "a device for the config": (lambda m: device(m / "config.json"), "config.json: is not a regular file"),
    "a pipe for the weights": (lambda m: pipe(m / "model.safetensors"), "model.safetensors: is not a regular file"),
    "a device for the weights": (lambda m: device(m / "model.safetensors"), "model.safetensors: is not a regular"),
    "a pipe for the tokenizer": (lambda m: pipe(m / "tokenizer.json"), "tokenizer.json"),
    "a device for the tokenizer": (lambda m: device(m / "tokenizer.json"), "tokenizer.json"),
    "normalizers that double": (lambda m: doubling(m / "tokenizer.json"), "tokenizer.json: took more than 3 s"),
    "a pipe for small files": (lambda m: pipe(m / "generation_config.json"), "generation_config.json"),
    "a pipe for the sums": (lambda m: pipe(m / SUMS), f"{SUMS}: cannot be read"),
    "NUL in the weight map": (lambda m: shard_named(m, "a\0b"), "a shard must be in this folder"),
    "escapes in the weight map": (lambda m: shard_named(m, "\x1b[2J"), "a shard must be in this folder"),
    "3,000 dimensions": (
        lambda m: header(
            m / "model.safetensors", json.dumps({"a": {"dtype": "F32", "shape": [3] * 3000, "data_offsets": [0, 0]}})
        ),
        "at most 8",
    ),
    "a dimension of 2^70": (
        lambda m: header(
            m / "model.safetensors", json.dumps({"a": {"dtype": "F32", "shape": [1 << 70], "data_offsets": [0, 0]}})
        ),
        "at most 8",
    ),
    "a deep header": (lambda m: header(m / "model.safetensors", DEEP), "model.safetensors"),
    "a long number in a header": (lambda m: header(m / "model.safetensors", f'{{"a": {LONG}}}'), "5000 digits"),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_hostile_model_is_refused(case: str, model: Path) -> None:
    """Behavior: by the file's name and the rule, and nothing is written."""
    spoil, part = MODELS[case]
    spoil(model)
    refused(andon("export", "--model", "model", "--out", "out"), part)
    assert not Path("out").exists()


CONFIGS = {
    "a key of 50,000 parts": (".".join(["a"] * 50_000) + " = 1", "dotted parts"),
    "a table of 50,000 parts": ("[" + ".".join(["a"] * 50_000) + "]", "dotted parts"),
    "a quoted key of 50,000 parts": (".".join(['"a"'] * 50_000) + " = 1", "dotted parts"),
    "deep lists": (f"a = {DEEP}", "is not valid TOML"),
    "a long number": (f"a = {LONG}", "is not valid TOML"),
    "two megabytes": ("#" * (2 << 20), "is larger than"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_hostile_configuration_is_refused(case: str, tuning: Path) -> None:
    """Behavior: before it costs more than reading it, for runs and for gates alike."""
    text, part = CONFIGS[case]
    (tuning / "run.toml").write_text(text)
    refused(andon("train", "run.toml", "--out", "run"), "run.toml", part)
    refused(andon("gate", "run", "small", "--config", "run.toml"), "run.toml", part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("model.num_hidden_layers=100000", "less than or equal to 2048"),
        (f"model.hidden_size={1 << 62}", "model.hidden_size"),
        (f"training.seed={1 << 70}", "training.seed"),
        (f"training.batch_size={1 << 62}", "training.batch_size"),
        (f"data.sequence_length={1 << 62}", "data.sequence_length"),
        (".".join(["a"] * 50_000) + "=1", "unknown table"),
        (f"training.seed={LONG}", "training.seed"),
    ],
    ids=lambda value: value[:30],
)
@pytest.mark.usefixtures("tuning")
def test_a_hostile_override_is_refused(change: str, part: str) -> None:
    """Behavior: a size or seed beyond what numbers hold is refused by its key."""
    refused(andon("train", "small.toml", "--data", "corpus", "--out", "run", "--set", change), part)


@pytest.mark.parametrize("expression", ["(([a-z._0-9])+)+!"])
def test_a_hostile_expression_is_stopped(expression: str, tuning: Path) -> None:
    """Behavior: a stranger's adapter names its modules by an expression that backtracks for ever; it is stopped."""
    del tuning
    targets = f"lora.target_modules={json.dumps(expression)}"
    result = andon("finetune", "lora", "--model", "base", "--data", "corpus", "--out", "run", "--set", targets)
    refused(result, "took more than 3 s")


@pytest.mark.parametrize("content", [DEEP, f'{{"a": {LONG}}}', "\udcff", ""])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_hostile_run_is_refused(name: str, content: str, tuning: Path) -> None:
    """Behavior: a run's own files are read as strictly."""
    shutil.copytree((tuning / "base").resolve(), tuning / "run")
    (tuning / "run" / name).write_bytes(content.encode(errors="surrogateescape"))
    result = andon("doctor", "run")
    assert 1 == result.exit_code
    assert name in result.output
    if name == "config.json":
        refused(andon("train", "--resume", "run"), name)


def test_a_hostile_source_of_evidence_is_refused(small_gates: Path) -> None:
    """Behavior: a pipe among the files that a gate measures is named, and not waited for."""
    text = (small_gates / "andon.toml").read_text()
    (small_gates / "andon.toml").write_text(f'sources = ["source.txt"]\n{text}')
    pipe(small_gates / "source.txt")
    refused(andon("gate", "run", "small"), "source.txt: is not a regular file")


@pytest.mark.parametrize("text", ["[" * 101 + "]" * 101, LONG, "1" * 41])
def test_json_has_bounds(text: str) -> None:
    """Behavior: depth and digits, whatever the file; what is within them is read."""
    with pytest.raises(reading.ReadError, match="is not valid JSON"):
        reading.parse_json(text)
    assert 2**64 == reading.parse_json(str(2**64))
    assert reading.parse_json("[" * 99 + "]" * 99)


def test_dots_in_text_are_no_key() -> None:
    """Behavior: TOML's bound is on keys: a string, a comment or a number may hold as many dots as it likes."""
    dots = ".".join("abcdefghijklmnopqrstuvwxyz")
    tables = reading.parse_toml(f"# {dots}\na = '{dots}'\nb = \"{dots}\"\nc = '''\n{dots} = 1\n'''\n\"{dots}\" = 1\n")
    assert {"a", "b", "c", dots} == tables.keys()


@pytest.mark.parametrize(
    "line",
    ['{"kind": "step", "step": "7"}', '{"kind": "step", "step": -1}', '{"kind": "step", "step": 1, "tokens": "x"}'],
)
def test_a_hostile_log_is_refused(line: str, tuning: Path) -> None:
    """Behavior: a record whose values are of another type is named by its line, before a run goes on from it."""
    shutil.copytree((tuning / "base").resolve(), tuning / "run")
    log = tuning / "run" / "log.jsonl"
    log.write_text(f"{line}\n{log.read_text()}")
    refused(andon("train", "--resume", "run"), "log.jsonl line 1 is not a record")
