"""The table of fields in the docs: what it says of each field is what the readers do with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from andon.core.config import LoraConfig
from andon.core.data.corpus import find_sources
from andon.core.data.instruction_records import InstructionError, has_instructions, read_instructions
from andon.core.data.tokenizer import TokenizerError, load_tokenizer
from andon.core.formats.huggingface_config import InterchangeError, load_huggingface_config
from andon.core.formats.marks import load_marks
from andon.core.formats.peft_config import AdapterError, peft_fields, read_adapter_config
from andon.core.formats.tokenizer_files import read_tokenizer
from tests.core.published_shapes import change, directory
from tests.file_fields import FILES, NO_MEANING, REFUSED

pytestmark = pytest.mark.tier2
REFUSALS = (InterchangeError, TokenizerError, AdapterError, InstructionError)
DIRECTORY = ("config.json", "generation_config.json", "tokenizer_config.json", "adapter_config.json")


def cases(fate: str, *files: str) -> list[Any]:
    """File, field and example of the table's rows of a fate."""
    return [
        pytest.param(file, key, field.example, id=f"{file}-{key}")
        for file in files
        for key, field in FILES[file].items()
        if field.fate == fate
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's directory, with an adapter's settings in it."""
    found = directory(tmp_path_factory.mktemp("hf") / "hf", "llama3", generation={"eos_token_id": [1, 4]})
    (found / "adapter_config.json").write_text(json.dumps(peft_fields(LoraConfig())))
    return found


def reading(folder: Path) -> Any:
    """All that is read of a directory, but for the files that are carried along as they are."""
    tokenizer = read_tokenizer(folder)
    assert tokenizer is not None
    marks = load_marks(folder)._replace(files={}, generation={})
    adapter = read_adapter_config(folder / "adapter_config.json").config
    return load_huggingface_config(folder / "config.json"), marks, tokenizer.to_str(), adapter


@pytest.mark.parametrize(("file", "key", "example"), cases(NO_MEANING, *DIRECTORY))
def test_a_field_of_no_meaning_changes_nothing(folder: Path, file: str, key: str, example: Any) -> None:
    """Behavior: with the field or without, the same model, tokenizer, marks and adapter are read."""
    before, text = reading(folder), (folder / file).read_text()
    try:
        change(folder / file, {key: example})
        assert before == reading(folder)
    finally:
        (folder / file).write_text(text)


@pytest.mark.parametrize(("file", "key", "example"), cases(REFUSED, *DIRECTORY))
def test_a_refused_field_is_named(folder: Path, file: str, key: str, example: Any) -> None:
    """Behavior: file, key and next step stand in the one message."""
    text = (folder / file).read_text()
    try:
        change(folder / file, {key: example})
        with pytest.raises(REFUSALS) as caught:
            reading(folder)
    finally:
        (folder / file).write_text(text)
    assert f"{folder / file}: " in str(caught.value)
    assert key in str(caught.value) or key == "extra_special_tokens"
    assert ";" in str(caught.value) or ": train the adapter without it" in str(caught.value)


@pytest.mark.parametrize(("_file", "key", "example"), cases(REFUSED, "a line of instructions"))
def test_a_refused_key_of_a_line_is_named(tmp_path: Path, _file: str, key: str, example: Any) -> None:
    """Behavior: file, line and key stand in the message."""
    said: dict[str, Any] = {"role": "assistant", "content": "b"}
    alone = {"instruction", "chosen"}
    message, _, inner = key.partition("[].")
    record = {key: example} if key in alone else {"messages": [said | {inner: example} if inner else said]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record if inner or key in alone else record | {key: example}))
    sources = find_sources([str(tmp_path / "a.jsonl")])
    assert has_instructions(sources)
    with pytest.raises(InstructionError, match=rf"a\.jsonl:1: .*{inner or message}"):
        list(read_instructions(sources[0], ()))


def test_the_table_holds_every_field_of_a_tokenizer_s_file(folder: Path) -> None:
    """Behavior: what a tokenizer.json can hold is in the table."""
    fields = json.loads(load_tokenizer(folder / "tokenizer.json").to_str())
    assert fields.keys() == FILES["tokenizer.json"].keys()
