"""Marks: what a model's files say beside its weights is read as transformers reads it, and goes with the weights."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import processors

from andon.core.data.chat import Conversation, render_turns
from andon.core.data.tokenizer import TokenizerError, text_marks
from andon.core.formats.huggingface_config import InterchangeError
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from andon.core.formats.marks import end_id, load_marks, marks_of_text
from andon.core.formats.tokenizer_files import read_tokenizer
from andon.core.model.generate import generate
from tests.core.foreign import assert_refused, new_model
from tests.core.published_shapes import SPECIAL, TALK, change, directory, tokenizer_of

pytestmark = pytest.mark.tier2


@pytest.mark.parametrize(
    ("config", "generation", "stop"),
    [
        ({"eos_token_id": 2}, None, (2,)),
        ({"eos_token_id": [1, 4]}, None, (1, 4)),
        ({"eos_token_id": 2}, {"eos_token_id": [1, 4]}, (1, 4)),
        ({"eos_token_id": [1, 4]}, {"temperature": 0.6}, ()),
        ({"eos_token_id": None}, None, ()),
    ],
)
def test_generation_ends_where_transformers_would(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, stop: tuple[int, ...]
) -> None:
    """Reference: generation_config.json alone where there is one, else config.json; one id or a list."""
    more = {"generation": generation} if generation is not None else {}
    assert stop == load_marks(directory(tmp_path / "hf", "llama3", config=config, **more)).stop


@pytest.mark.parametrize("value", ["2", [True], [-1], {}, [[1]]])
def test_an_end_that_is_no_id_is_refused(tmp_path: Path, value: Any) -> None:
    """Behavior: file, key, value and rule."""
    folder = directory(tmp_path / "hf", "llama3", generation={"eos_token_id": value})
    with pytest.raises(InterchangeError, match=r"generation_config\.json: eos_token_id=.*expected an id or a list"):
        load_marks(folder)


def test_the_tokenizer_s_end_closes_a_text(tmp_path: Path) -> None:
    """Behavior: not the first usual name that the vocabulary has, which is another token here, but the one named."""
    folder = directory(tmp_path / "hf", "chatml")
    tokenizer = read_tokenizer(folder)
    assert tokenizer is not None
    assert tokenizer.token_to_id("<|im_end|>") == marks_of_text(tokenizer, load_marks(folder), folder).end


def test_without_a_name_the_first_id_that_stops_closes_a_text(tmp_path: Path) -> None:
    """Behavior: where tokenizer_config.json names none, and no usual name is there."""
    folder = directory(tmp_path / "hf", "llama3", tokenizer={"eos_token": None}, config={"eos_token_id": [4, 1]})
    tokenizer = read_tokenizer(folder)
    assert tokenizer is not None
    assert 4 == end_id(tokenizer, load_marks(folder), folder)
    change(folder / "config.json", {"eos_token_id": 99_999})
    with pytest.raises(TokenizerError, match=r"eos_token_id=99999 is no id of tokenizer\.json"):
        end_id(tokenizer, load_marks(folder), folder)


def test_the_map_of_special_tokens_goes_first_unless_tokens_are_listed(tmp_path: Path) -> None:
    """Reference: special_tokens_map.json is read where tokenizer_config.json has no added_tokens_decoder."""
    folder = directory(tmp_path / "hf", "chatml", special={"eos_token": {"content": "<|endoftext|>"}})
    assert "<|endoftext|>" == load_marks(folder).names["eos_token"]
    change(folder / "tokenizer_config.json", {"added_tokens_decoder": {"0": {"content": "<|endoftext|>"}}})
    assert "<|im_end|>" == load_marks(folder).names["eos_token"]


def test_llama_tokenizer_has_names_of_its_own(tmp_path: Path) -> None:
    """Reference: the class's defaults, where the file gives none."""
    folder = directory(tmp_path / "hf", "llama2", tokenizer={"bos_token": None, "tokenizer_class": "LlamaTokenizer"})
    assert ("<s>", "</s>") == tuple(load_marks(folder).names[key] for key in ("bos_token", "eos_token"))
    change(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    assert "bos_token" not in load_marks(folder).names


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_the_files_say_goes_with_the_weights(tmp_path: Path, kind: str) -> None:
    """Behavior: ids, lists among them, and every small file are written on, and the template finds its names."""
    said = {"eos_token_id": [2, 1], "bos_token_id": 1, "pad_token_id": 0}
    folder = directory(tmp_path / "hf", kind, config=said, generation={"eos_token_id": [1, 2], "top_k": 3})
    marks = load_marks(folder)
    model, tokenizer = load_model(folder)
    export_huggingface(model, tmp_path / "out", tokenizer, marks.template, marks)
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert said.items() <= json.loads((tmp_path / "out" / "config.json").read_text()).items()
    again = load_marks(tmp_path / "out")
    assert marks._replace(template=None) == again._replace(template=None, files=again.files)
    texts = [render_turns(each.template, [Conversation("x", TALK)]) for each in (marks, again) if each.template]
    assert texts[0] == texts[1]


def test_another_template_goes_before_the_source_s(tmp_path: Path) -> None:
    """Behavior: the one a fine-tune was given is what the written directory renders with, tools or not."""
    folder = directory(tmp_path / "hf", "chatml")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (folder / "chat_template.jinja").write_text("old")
    marks = load_marks(folder)
    assert marks.template
    assert ("old", "tools") == (marks.template.source, marks.template.tool_use)
    model, tokenizer = load_model(folder)
    export_huggingface(model, tmp_path / "out", tokenizer, marks.template._replace(source="new", tool_use=""), marks)
    written = load_marks(tmp_path / "out").template
    assert written
    assert ("new", "") == (written.source, written.tool_use)


def test_generation_stops_at_any_end() -> None:
    """Behavior: each of several ends stops a row, which then repeats the first; a row without one goes on."""
    model = new_model()
    prompt = torch.tensor([[3, 1, 4]])
    free = [int(token) for token in generate(model, prompt, 6, temperature=0)]
    ends = [39, free[2]]
    assert free[: free.index(free[2]) + 1] == [int(t) for t in generate(model, prompt, 6, temperature=0, eos_id=ends)]
    assert free == [int(token) for token in generate(model, prompt, 6, temperature=0, eos_id=[])]


def test_a_text_begins_with_what_the_tokenizer_puts_before_it() -> None:
    """Reference: the post-processor's own tokens; the end of the text before, where it puts none."""
    llama = tokenizer_of("llama3")
    assert ((0,), 1) == text_marks(llama, "t.json", 1)
    assert (0,) == text_marks(llama, "t.json", 1).first
    assert ((), (2,)) == (
        text_marks(tokenizer_of("chatml"), "t", 2).begin,
        text_marks(tokenizer_of("chatml"), "t", 2).first,
    )


def test_an_end_in_the_post_processor_must_be_the_one_end() -> None:
    """Behavior: the same end is put once; another one is refused by name."""
    tokenizer = tokenizer_of("chatml")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", tokenizer.token_to_id("<|im_end|>"))]
    )
    assert () == text_marks(tokenizer, "t.json", 2).begin
    with pytest.raises(TokenizerError, match=r"t\.json: post_processor puts '<\|im_end\|>' after a text"):
        text_marks(tokenizer, "t.json", 0)


def test_marks_of_a_gguf_file(tmp_path: Path) -> None:
    """Behavior: names and ids from the metadata; the end of a turn stops generation beside that of a text."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_token_list(["<s>", "</s>", "<pad>", "<end>"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_eot_token_id(3)
    writer.add_tensor("x", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    marks = load_marks(tmp_path / "m.gguf")
    assert {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} == marks.names
    assert ({"bos_token_id": 0, "eos_token_id": [1, 3], "pad_token_id": 2}, (1, 3)) == (marks.ids, marks.stop)


def test_a_directory_that_is_no_language_model_is_said_so(tmp_path: Path) -> None:
    """Behavior: before its tensors are looked at, so that nobody fetches again what would be wrong again."""
    names = ["LlamaForSequenceClassification"]
    folder = directory(tmp_path / "hf", "llama2", config={"architectures": names})
    assert_refused(folder, "config.json: architectures=['LlamaForSequenceClassification'] is no language model; name a")
