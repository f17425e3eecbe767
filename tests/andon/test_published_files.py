"""The commands on files as others publish them: marks go along, generation ends, and what is not done is said."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from andon.cli.main import cli
from andon.core.formats.interchange import load_model
from andon.core.formats.marks import load_marks
from tests.andon.test_bad_input import refused
from tests.core.published_shapes import TALK, TEMPLATES, change, directory
from tests.tuning import tune

IDS = {"bos_token_id": 0, "eos_token_id": [1, 4]}


def andon(*arguments: object) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of Llama 3's shape in `hf`, conversations in `chats.jsonl`, and nothing else."""
    monkeypatch.chdir(tmp_path)
    directory(tmp_path / "hf", "llama3", config=IDS, generation=IDS | {"temperature": 0.6})
    lines = [json.dumps({"messages": [*TALK, {"role": "assistant", "content": f"w{n}"}]}) for n in range(6)]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.tier2
@pytest.mark.parametrize("verb", ["import", "export"])
def test_an_imported_directory_is_its_source(chats: Path, verb: str) -> None:
    """Behavior: ids, generation settings, names and template are those of the source."""
    result = andon(verb, "--model", "hf", "--out", "out")
    assert 0 == result.exit_code, result.output
    source, written = load_marks(chats / "hf"), load_marks(chats / "out")
    assert (source.names, source.ids, source.stop) == (written.names, written.ids, written.stop)
    assert source.files == written.files
    assert IDS.items() <= json.loads((chats / "out" / "config.json").read_text()).items()


@pytest.mark.tier3
def test_a_merged_fine_tune_keeps_its_base_s_marks(chats: Path) -> None:
    """Behavior: of the base all files, and in place of its template the one that the fine-tune was given."""
    own = TEMPLATES["llama3"] + "\n"
    (chats / "own.jinja").write_text(own)
    arguments = ("--model", "hf", "--data", "chats.jsonl", "--chat-template", "own.jinja", "--out", "run")
    result = tune("lora", *arguments, "--set", "data.sequence_length=64")
    assert 0 == result.exit_code, result.output
    assert (
        json.loads((chats / "run" / "finetune.json").read_text())["template"]["tokens"]
        == load_marks(chats / "hf").names
    )
    assert 0 == andon("merge", "--model", "run", "--out", "merged").exit_code
    source, written = load_marks(chats / "hf"), load_marks(chats / "merged")
    assert (source.names, source.ids, source.stop) == (written.names, written.ids, written.stop)
    assert written.template
    assert own == written.template.source


@pytest.mark.tier3
def test_an_adapter_from_elsewhere_brings_its_own_template(chats: Path) -> None:
    """Behavior: the tokenizer's files that PEFT's users save beside an adapter are those of the merged model."""
    assert 0 == tune("lora", "--model", "hf", "--data", "chats.jsonl", "--out", "run").exit_code
    newest = max((chats / "run" / "checkpoints").iterdir())
    (chats / "theirs").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(newest / name, chats / "theirs")
    shutil.copy(chats / "hf" / "tokenizer.json", chats / "theirs")
    fields = json.loads((chats / "hf" / "tokenizer_config.json").read_text()) | {"eos_token": "<|end_of_text|>"}
    (chats / "theirs" / "tokenizer_config.json").write_text(json.dumps(fields | {"chat_template": "theirs"}))
    result = andon("merge", "--model", "theirs", "--base", "hf", "--out", "merged")
    assert 0 == result.exit_code, result.output
    written = load_marks(chats / "merged")
    assert written.template
    assert ("theirs", "<|end_of_text|>", (1, 4)) == (written.template.source, written.names["eos_token"], written.stop)


@pytest.mark.tier2
def test_generation_begins_and_ends_as_the_files_say(chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the tokenizer's own opening, every id that stops, and a line on settings that are not applied."""
    from andon.core.model import generate as module

    asked: dict[str, object] = {}

    def listen(_model: object, tokens: object, *_: object, **options: object) -> list[object]:
        asked.update(options, tokens=tokens)
        return []

    monkeypatch.setattr(module, "generate", listen)
    result = andon("generate", "--model", "hf", "--prompt", "The sea")
    assert 0 == result.exit_code, result.output
    _, tokenizer = load_model(chats / "hf")
    assert tokenizer is not None
    assert [tokenizer.encode("The sea").ids] == asked["tokens"].tolist()  # ty: ignore[missing-attribute]
    assert [1, 4] == asked["eos_id"]
    assert "generation_config.json: not applied: temperature=0.6" in result.stderr


@pytest.mark.tier2
def test_what_is_not_done_is_said_in_one_message(chats: Path) -> None:
    """Behavior: exit code 2; the file, the reason and the next step; nothing is left."""
    (chats / "array.json").write_text(json.dumps([{"messages": TALK}]))
    refused(tune("lora", "--model", "hf", "--data", "array.json", "--out", "run"), "array.json: holds a JSON array")
    dated = "{% set day = strftime_now('%d') %}" + TEMPLATES["llama3"]
    change(chats / "hf" / "tokenizer_config.json", {"chat_template": dated})
    refused(tune("lora", "--model", "hf", "--data", "chats.jsonl", "--out", "run"), "strftime_now", "--chat-template")
    change(chats / "hf" / "config.json", {"architectures": ["LlamaForTokenClassification"]})
    refused(andon("import", "--model", "hf", "--out", "out"), "config.json: architectures=", "is no language model")
    assert not (chats / "run").exists()
    assert not (chats / "out").exists()
