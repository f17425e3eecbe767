"""Beside transformers: the same ids for the same text and conversation, and the same stop."""

from pathlib import Path
from typing import Any

import pytest

from andon.core.data.chat import Conversation, render_turns
from andon.core.data.instructions import encode_turns
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from andon.core.formats.marks import load_marks, marks_of_text
from tests.core.published_shapes import TALK, directory

pytestmark = pytest.mark.slow

TEXTS = ["The sea is wide.", " a word", "line\n\n two  spaces", "naïve 🌊", "3+4"]
LLAMA = "LlamaTokenizer"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama2", {}),
    (
        "llama2",
        {"tokenizer": {"tokenizer_class": LLAMA, "legacy": True, "add_bos_token": True, "add_eos_token": False}},
    ),
    ("llama2", {"tokenizer": {"tokenizer_class": LLAMA, "legacy": False}, "generation": {"eos_token_id": 2}}),
    ("llama2", {"tokenizer": {"tokenizer_class": LLAMA, "add_eos_token": True}}),
    ("llama3", {"config": {"eos_token_id": [1, 4]}}),
    ("llama3", {"tokenizer": {"add_bos_token": False}, "generation": {"eos_token_id": [1, 4], "bos_token_id": 0}}),
    (
        "llama3",
        {"tokenizer": {"tokenizer_class": "PreTrainedTokenizerFast"}, "special": {"eos_token": "<|end_of_text|>"}},
    ),
    ("chatml", {"tokenizer": {"bos_token": None, "model_max_length": 4096, "padding_side": "left"}}),
    ("chatml", {"special": {"eos_token": {"content": "<|endoftext|>"}}}),
]


@pytest.fixture(scope="module")
def transformers() -> Any:
    """The reference."""
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install 'transformers>=5'")


@pytest.mark.parametrize(("kind", "files"), CASES)
def test_reads_as_transformers_does(transformers: Any, tmp_path: Path, kind: str, files: dict[str, Any]) -> None:
    """Reference: AutoTokenizer, apply_chat_template and the generation settings of the same directory, and of ours."""
    folder = directory(tmp_path / "hf", kind, **files)
    marks = load_marks(folder)
    model, tokenizer = load_model(folder)
    export_huggingface(model, tmp_path / "out", tokenizer, marks.template, marks)
    for place in (folder, tmp_path / "out"):
        theirs = transformers.AutoTokenizer.from_pretrained(place)
        _, ours = load_model(place)
        assert ours is not None
        marks = load_marks(place)
        around = marks_of_text(ours, marks, place)
        for text in TEXTS:
            assert theirs(text).input_ids == [*around.begin, *ours.encode(text, add_special_tokens=False).ids]
        assert theirs.eos_token_id == around.end
        assert marks.template
        (turns,) = render_turns(marks.template, [Conversation("x", TALK)])
        sample = encode_turns(ours, turns, around, chat=True)
        wanted = theirs.apply_chat_template(TALK, return_dict=False)
        assert wanted[: len(sample.tokens)] == sample.tokens.tolist()
        end = transformers.AutoModelForCausalLM.from_pretrained(place).generation_config.eos_token_id
        assert marks.stop == tuple(end if isinstance(end, list) else [end])
