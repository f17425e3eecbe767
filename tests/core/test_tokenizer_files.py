"""tokenizer_config.json: what it changes in tokenizer.json is done as transformers does it, or refused by key."""

from pathlib import Path
from typing import Any

import pytest

from andon.core.data.tokenizer import TokenizerError, encode_continuation
from andon.core.formats.tokenizer_files import read_tokenizer
from tests.core.published_shapes import directory, tokenizer_of

pytestmark = pytest.mark.tier2

SPACED = "<s>wide</s>wide"


@pytest.mark.parametrize(
    ("fields", "spaces"),
    [
        ({}, [True, True]),  # tokenizer.json's own: a space before each chunk
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, [True, True]),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": True}, [True, True]),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": False}, [False, False]),
        ({"tokenizer_class": "LlamaTokenizerFast"}, [False, False]),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_prefix_space": False}, [False, False]),
    ],
)
def test_llama_tokenizer_puts_its_own_spaces(tmp_path: Path, fields: dict[str, Any], spaces: list[bool]) -> None:
    """Reference: `legacy` puts a space after each special token, otherwise only a text's beginning has one."""
    tokenizer = read_tokenizer(directory(tmp_path / "hf", "llama2", tokenizer=fields))
    assert tokenizer is not None
    tokens = tokenizer.encode(SPACED, add_special_tokens=False).tokens
    first, second = "".join(tokens).removeprefix("<s>").split("</s>")
    assert spaces == [first.startswith("▁"), second.startswith("▁")]
    opening = tokenizer.encode("wide", add_special_tokens=False).tokens[0]
    assert opening.startswith("▁") == (fields.get("add_prefix_space") is not False)
    assert "wide" == tokenizer.decode(tokenizer.encode("wide").ids)


def test_llama_tokenizer_leaves_a_byte_level_file(tmp_path: Path) -> None:
    """Reference: transformers keeps tokenizer.json where its bytes are written as letters."""
    folder = directory(tmp_path / "hf", "llama3", tokenizer={"tokenizer_class": "LlamaTokenizerFast"})
    found = read_tokenizer(folder)
    assert found is not None
    assert tokenizer_of("llama3").encode("The sea").ids == found.encode("The sea").ids


@pytest.mark.parametrize("kind", ["llama2", "chatml"])
def test_what_follows_a_text_gets_no_space_of_its_own(kind: str) -> None:
    """Behavior: prompt and answer read as they were written, whatever the tokenizer puts before a text."""
    tokenizer = tokenizer_of(kind)
    tokenizer.post_processor = None
    prompt, answer = "What is 3+", "4? Seven!"
    ids = [*tokenizer.encode(prompt).ids, *encode_continuation(tokenizer, answer)]
    assert prompt + answer == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"split_special_tokens": True}, "split_special_tokens=True is not supported"),
        ({"eos_token": "<nowhere>"}, "eos_token names '<nowhere>', which has no id in tokenizer.json"),
        ({"additional_special_tokens": ["<nowhere>"]}, "additional_special_tokens names '<nowhere>'"),
        ({"extra_special_tokens": {"image": "<nowhere>"}}, "additional_special_tokens names '<nowhere>'"),
        (
            {"added_tokens_decoder": {"9": {"content": "<|im_end|>"}}},
            "added_tokens_decoder.9 names '<|im_end|>', which has id 2",
        ),
    ],
)
def test_what_is_not_done_is_refused(tmp_path: Path, fields: dict[str, Any], complaint: str) -> None:
    """Behavior: file, key and next step, instead of other ids than transformers'."""
    folder = directory(tmp_path / "hf", "chatml", tokenizer=fields)
    with pytest.raises(TokenizerError) as caught:
        read_tokenizer(folder)
    assert f"{folder / 'tokenizer_config.json'}: {complaint}" in str(caught.value)
