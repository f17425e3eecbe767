"""What the machine refuses, what must not be shown, and what a message says: one line, code 2, no traceback."""

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from andon.core.data import shards
from andon.core.files.folders import best_checkpoint, checkpoints
from andon.core.training import loop
from andon.report.page import render_report
from andon.runs import endings
from andon.text import clean, without_secrets
from tests.andon.test_bad_input import refused
from tests.tuning import andon, tune

TUNE = ("finetune", "lora", "--model", "base", "--data", "corpus", "--no-trace")
TRAIN = ("train", "small.toml", "--data", "corpus", "--no-trace")


@pytest.mark.tier3
@pytest.mark.parametrize(
    "verb",
    [
        ("train", "small.toml", "--data", "corpus", "--out", "file/run"),
        ("finetune", "lora", "--model", "base", "--data", "corpus", "--out", "file/run"),
        ("export", "--model", "base", "--out", "file/out"),
    ],
    ids=lambda verb: verb[0],
)
def test_a_folder_below_a_file_is_refused(verb: tuple[str, ...], tuning: Path) -> None:
    """Behavior: the path, the reason and the next step."""
    (tuning / "file").touch()
    refused(andon(*verb), "file", "Not a directory")


@pytest.mark.tier3
@pytest.mark.usefixtures("tuning")
@pytest.mark.parametrize("written", ["report.html", "result.json", "model.safetensors"])
def test_a_full_disk_is_said(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: of a report, of a result, of an export; a run says from where it can go on."""
    verb = ("export", "--model", "base", "--out", "out") if written.endswith("tensors") else (*TRAIN, "--out", "run")
    if written == "report.html":
        verb = ("finetune", "lora", "--model", "base", "--data", "corpus", "--rank", "4", "--out", "run")
    plain = os.fsync

    def full(descriptor: int) -> None:
        if written in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    result = andon(*verb)
    refused(result, "No space left on device")
    if written == "result.json":
        assert "The newest finite checkpoint is run/checkpoints/step-" in result.output


@pytest.mark.tier3
@pytest.mark.usefixtures("tuning")
def test_a_limit_on_files_is_said() -> None:
    """Behavior: a real refusal of the system, in the middle of a save, names the file and the way on."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
        result = andon(*TRAIN, "--out", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    refused(result, "could not be saved", "there is no earlier checkpoint")


@pytest.mark.tier3
@pytest.mark.parametrize("message", ["DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", ""])
@pytest.mark.usefixtures("tuning")
def test_an_allocation_that_is_refused_is_said(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: with what to lower, and the newest checkpoint; another error keeps its traceback and gets that note."""
    plain = loop.train

    def starved(*arguments: Any, **named: Any) -> Any:
        for record in plain(*arguments, **named):
            yield record
            if record.step == 5:
                raise RuntimeError(message) if message else MemoryError

    monkeypatch.setattr(loop, "train", starved)
    newest = "The newest finite checkpoint is run/checkpoints/step-00000004: andon train --resume run"
    refused(andon(*TRAIN, "--out", "run"), "lower training.batch_size", newest)

    def broken(*_: Any, **__: Any) -> Any:
        yield from ()
        raise RuntimeError("a bug")

    monkeypatch.setattr(loop, "train", broken)
    error = andon("train", "--resume", "run", "--no-trace").exception
    assert isinstance(error, RuntimeError)
    assert [newest] == error.__notes__


@pytest.mark.tier3
@pytest.mark.usefixtures("tuning")
def test_a_shard_that_is_cut_while_a_run_reads_it_names_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the file, and from where the run goes on, with which the tokens are written anew."""
    plain = loop.train

    def cutting(*arguments: Any, **named: Any) -> Any:
        for record in plain(*arguments, **named):
            yield record
            if record.step == 5:
                for path in Path("reports/data").glob("*/shard-*.bin"):
                    path.write_bytes(path.read_bytes()[:4])

    monkeypatch.setattr(loop, "train", cutting)
    going_on = "The newest finite checkpoint is run/checkpoints/step-00000004: andon train --resume run"
    refused(andon(*TRAIN, "--out", "run"), "shard-00000.bin: changed while it was read", going_on)
    monkeypatch.setattr(loop, "train", plain)
    assert 0 == andon("train", "--resume", "run", "--no-trace").exit_code


@pytest.mark.tier2
def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    """Behavior: tokens that are no longer there are an error of ours, with the file's name."""
    documents = [shards.EncodedDocument(list(range(50)), 100, 1)]
    shards.write_store(tmp_path, documents, 40, 300, {})
    store = shards.open_store(tmp_path)
    assert [3, 45] == shards.read_tokens(store, np.array([3, 45])).tolist()
    path = tmp_path / shards.shard_name(1)
    path.write_bytes(path.read_bytes()[:4])
    with pytest.raises(shards.ShardError, match=r"shard-00001\.bin: changed while it was read"):
        shards.read_tokens(store, np.array([3, 45]))


ESCAPES = "\x1b[2J\x9b31m\u202e\x07"


@pytest.mark.tier1
@pytest.mark.parametrize("character", [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0xD800)])
def test_no_control_character_is_left(character: str) -> None:
    """Behavior: each is written out; tabs, line feeds and all scripts stay as they are."""
    assert clean(f"a{character}b").isprintable()
    assert "naïve\t漢字\n" == clean("naïve\t漢字\n")


@pytest.mark.tier3
@pytest.mark.parametrize("where", ["tensor", "key", "option", "argument", "expression"])
def test_messages_steer_no_terminal(where: str, tuning: Path) -> None:
    """Behavior: control characters of a tensor's name, a TOML key or an argument are written out."""
    if where == "tensor":
        from safetensors.torch import load_file, save_file

        assert 0 == andon("export", "--model", "base", "--out", "out").exit_code
        (tuning / "out" / "SHA256SUMS").unlink()
        file = tuning / "out" / "model.safetensors"
        weights = load_file(file)
        save_file(weights | {f"model.norm{ESCAPES}": weights["model.norm.weight"].clone()}, file)
        result = andon("generate", "--model", "out")
    elif where == "key":
        (tuning / "bad.toml").write_text('"a\\u001b[2J\\u009b31m\\u202e\\u0007" = 1\n')
        result = andon("train", "bad.toml", "--out", "run")
    elif where == "option":
        result = andon("train", "small.toml", "--device", ESCAPES)
    elif where == "argument":
        result = andon("train", f"absent{ESCAPES}.toml")
    else:
        changes = ("--set", f"lora.target_modules=x{ESCAPES}")
        result = andon("finetune", "lora", "--model", "base", "--data", "corpus", "--out", "run", *changes)
    assert 2 == result.exit_code
    assert result.output == clean(result.output)
    assert "2J" in result.output


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--otlp http://user:PASSWORD@host:4318", "--otlp http://***@host:4318"),
        ("https://u:p/w@ss?x@host/v1", "https://***@host/v1"),
        ("http://host/v1?token=PASSWORD end", "http://host/v1?*** end"),
        ("http://localhost:4318", "http://localhost:4318"),
        ("user@example.org", "user@example.org"),
    ],
)
def test_no_secret_of_a_url_is_left(text: str, shown: str) -> None:
    """Behavior: who, the password and the query; the rest stays, so that the endpoint can be recognized."""
    assert shown == without_secrets(text)


@pytest.mark.tier3
def test_a_password_is_nowhere(tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: neither in what a run says nor in a file of it, though its endpoint's URL has one."""
    from andon.tracing import send

    monkeypatch.setattr(send, "CLOSE_SECONDS", 0.1)
    url = "http://user:PASSWORD@127.0.0.1:1"
    arguments = ["train", "small.toml", "--data", "corpus", "--out", "run", "--otlp", url]
    monkeypatch.setattr("sys.argv", ["andon", *arguments])
    result = andon(*arguments)
    assert 0 == result.exit_code, result.output
    render_report(tuning / "run", None)
    assert "http://***@127.0.0.1:1" in json.loads((tuning / "run" / "result.json").read_text())["command"]
    assert "PASSWORD" not in result.output
    holding = [path.name for path in (tuning / "run").rglob("*") if path.is_file() and b"PASSWORD" in path.read_bytes()]
    assert [] == [name for name in holding if not name.startswith("trace.jsonl.")]


@pytest.mark.tier3
@pytest.mark.parametrize("verb", [TRAIN, TUNE], ids=lambda verb: verb[0])
def test_more_than_one_rank_is_refused(verb: tuple[str, ...], tuning: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: torchrun's ranks would each train a copy: rank 0 says so in one line, the others are silent."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        result = andon(*verb, "--out", f"run-{rank}")
        assert 2 == result.exit_code
        assert lines == len([line for line in result.output.splitlines() if "torchrun started 2 ranks" in line])
        assert lines == len(result.output.splitlines())
        assert not (tuning / f"run-{rank}").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    endings.require_one_process("train")


@pytest.mark.tier3
def test_a_run_without_a_checkpoint_says_so(tuning: Path) -> None:
    """Behavior: whoever generates from it, and whoever resumes one that was killed before its first file."""
    (tuning / "run").mkdir()
    (tuning / "run" / "run.lock").touch()
    refused(andon("generate", "--model", "run"), "run: this run has saved no checkpoint yet")
    refused(andon("train", "--resume", "run"), "killed before it wrote its config.json", "--out run")


@pytest.mark.tier3
def test_a_name_that_is_not_utf8_is_refused_or_kept(tuning: Path) -> None:
    """Behavior: a file's name that is not UTF-8 is named, its bytes written out."""
    name = os.fsdecode(b"caf\xe9")
    refused(andon("train", f"{name}.toml"), "caf\\udce9.toml")
    (tuning / name).mkdir()
    result = andon(*TRAIN, "--out", f"{name}/run")
    assert "Traceback" not in result.output
    assert result.exit_code in (0, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.tier3
def test_the_best_checkpoint_is_named_and_taken(tuning: Path) -> None:
    """Behavior: `--model RUN` says which checkpoint it took, and `--best` takes the one with the lowest loss."""
    changes = ("--set", "training.learning_rate=0.3", "--set", "training.epochs=4", "--set", "validation.every_steps=2")
    assert 0 == andon(*TRAIN, "--out", "run", *changes).exit_code
    newest, best = checkpoints(tuning / "run" / "checkpoints")[0], best_checkpoint(tuning / "run" / "checkpoints")
    assert best is not None
    assert newest != best
    short = ("generate", "--model", "run", "--max-new-tokens", "2")
    assert f"run: {newest.name}, the newest; the best is {best.name}: --best" in andon(*short).output
    assert f"run: {best.name}, the best by validation loss" in andon(*short, "--best").output
    for name, more in (("one", ()), ("two", ("--best",))):
        assert 0 == andon("export", "--model", "run", "--out", name, *more).exit_code
    assert (tuning / "one" / "model.safetensors").read_bytes() != (tuning / "two" / "model.safetensors").read_bytes()
    refused(andon("generate", "--model", "one", "--best"), "is no run, so it has no best checkpoint")


@pytest.mark.tier3
def test_the_best_adapter_is_merged(tuning: Path) -> None:
    """Behavior: merge takes --best too."""
    assert 0 == tune("lora", "--model", "base", "--data", "corpus", "--out", "run").exit_code
    assert (
        "the best by validation loss" in andon("merge", "--model", "run", "--best", "--out", str(tuning / "m")).output
    )
