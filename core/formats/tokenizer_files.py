"""A Hugging Face directory's tokenizer: `tokenizer.json`, and what `tokenizer_config.json` changes in it.

As in transformers 5, tokenizer.json's post-processor says what is put around a text (`add_bos_token` and
`add_eos_token` are not read beside it), and the class LlamaTokenizer brings its own treatment of spaces: one before
every text, and with `legacy` also after each special token.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers

from andon.core.data.tokenizer import TokenizerError, load_tokenizer
from andon.core.files.manifest import CONFIG, TOKENIZER
from andon.core.formats.chat_template import FIELDS
from andon.core.formats.huggingface_config import read_json

SPACE = "▁"
LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a directory; None where it has no tokenizer.json.

    Raises:
        TokenizerError: tokenizer.json is damaged, or tokenizer_config.json asks for what is not done here.
        InterchangeError: tokenizer_config.json cannot be read.
    """
    if not (folder / TOKENIZER).exists():
        return None
    tokenizer = load_tokenizer(folder / TOKENIZER, foreign=True)
    if not (folder / FIELDS).exists():
        return tokenizer
    fields = read_json(folder / FIELDS)
    _check_fields(folder / FIELDS, fields, tokenizer)
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    kind = fields.get("tokenizer_class") or config.get("tokenizer_class")
    if kind in LLAMA_CLASSES and _is_sentencepiece(tokenizer):
        _put_llama_spaces(tokenizer, fields)
    return tokenizer


def _check_fields(path: Path, fields: dict[str, Any], tokenizer: Tokenizer) -> None:
    if fields.get("split_special_tokens"):
        raise TokenizerError(
            f"{path}: split_special_tokens=True is not supported: a conversation's special tokens would be letters; "
            "set it to false"
        )
    for where, text, place in _named_tokens(fields):
        found = tokenizer.token_to_id(text)
        if found is None or place not in (None, found):
            here = "has no id" if found is None else f"has id {found}"
            raise TokenizerError(
                f"{path}: {where} names {text!r}, which {here} in {TOKENIZER}; fetch both again, or remove the entry"
            )


def _named_tokens(fields: dict[str, Any]) -> list[tuple[str, str, int | None]]:
    """Key, text and id, where one is given, of every token that must be the tokenizer's."""
    decoder = fields.get("added_tokens_decoder")
    extra = fields.get("additional_special_tokens") or fields.get("extra_special_tokens") or []
    listed = extra.values() if isinstance(extra, dict) else extra
    found = [("additional_special_tokens", each, None) for each in listed]
    found += [(key, value, None) for key, value in fields.items() if key.endswith("_token")]
    if isinstance(decoder, dict):
        found += [(f"added_tokens_decoder.{id_}", value, int(id_)) for id_, value in decoder.items() if id_.isdigit()]
    texts = [(key, value.get("content") if isinstance(value, dict) else value, place) for key, value, place in found]
    return [(key, text, place) for key, text, place in texts if isinstance(text, str)]


def _is_sentencepiece(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary is BPE that writes spaces as `▁`; LlamaTokenizer leaves a byte-level one as it is."""
    model = json.loads(tokenizer.to_str())["model"]
    return model["type"] == "BPE" and any(SPACE in token for token in model["vocab"])


def _put_llama_spaces(tokenizer: Tokenizer, fields: dict[str, Any]) -> None:
    before = fields.get("add_prefix_space") is not False
    scheme = ("always" if fields.get("legacy") else "first") if before else "never"
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if before else steps)
