"""The byte-level BPE tokenizer that a GGUF file's metadata describes."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from andon.core.formats.gguf_header import GgufError

ADDED_TOKEN_TYPES = 3, 4  # gguf.md, tokenizer.ggml.token_type: control, user-defined
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
# Pre-tokenizers by `tokenizer.ggml.pre`. With another one, text would be encoded wrongly without an error.
PRE_TOKENIZERS = {
    "gpt-2": BYTE_LEVEL,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL]),
}


def read_tokenizer(fields: dict[str, Any]) -> Tokenizer | None:
    """A tokenizer from GGUF metadata, or None where its kind is not supported (SentencePiece, other pre-tokenizers).

    Raises:
        GgufError: tokens, types or merges that are missing or contradict each other.
    """
    name = fields.get("tokenizer.ggml.pre")
    pre_tokenizer = PRE_TOKENIZERS.get(name) if isinstance(name, str) else None
    if fields.get("tokenizer.ggml.model") != "gpt2" or pre_tokenizer is None:
        return None
    tokens, kinds = _list_of(fields, "tokens", str), _list_of(fields, "token_type", int)
    if len(tokens) != len(kinds):
        raise GgufError(f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens")
    merges = [tuple(merge.split(" ")) for merge in _list_of(fields, "merges", str)]
    try:
        tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    except Exception as error:  # the library raises Exception itself
        raise GgufError(f"tokenizer.ggml.merges do not match the tokens ({error})") from error
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    special, added = (
        [token for token, kind in zip(tokens, kinds, strict=True) if kind == wanted] for wanted in ADDED_TOKEN_TYPES
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer


def _list_of(fields: dict[str, Any], key: str, kind: type) -> list[Any]:
    values = fields.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise GgufError(f"tokenizer.ggml.{key} is missing, or not a list of {kind.__name__}")
    return values
