"""The byte-level BPE tokenizer that a GGUF file's metadata describes."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from andon.core.formats.gguf_header import GgufError

ADDED = 3, 4  # gguf.md, tokenizer.ggml.token_type: control, user-defined
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
# How text is cut before merging, by `tokenizer.ggml.pre`. Others cut differently and would encode wrongly in silence.
CUTS = {
    "gpt-2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
}


def read_tokenizer(fields: dict[str, Any]) -> Tokenizer | None:
    """A tokenizer from GGUF metadata, or None where it is of a kind not read here (SentencePiece, other cuts).

    Raises:
        GgufError: tokens, types or merges that are missing or do not fit each other.
    """
    name = fields.get("tokenizer.ggml.pre")
    cut = CUTS.get(name) if isinstance(name, str) else None
    if fields.get("tokenizer.ggml.model") != "gpt2" or cut is None:
        return None
    tokens, kinds = _listed(fields, "tokens", str), _listed(fields, "token_type", int)
    if len(tokens) != len(kinds):
        raise GgufError(f"tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens")
    merges = [tuple(merge.split(" ")) for merge in _listed(fields, "merges", str)]
    try:
        tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    except Exception as error:  # the library raises Exception itself
        raise GgufError(f"tokenizer.ggml.merges do not fit the tokens ({error})") from error
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    special, added = ([token for token, kind in zip(tokens, kinds, strict=True) if kind == wanted] for wanted in ADDED)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    return tokenizer


def _listed(fields: dict[str, Any], key: str, kind: type) -> list[Any]:
    values = fields.get(f"tokenizer.ggml.{key}")
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise GgufError(f"tokenizer.ggml.{key} is missing, or no list of {kind.__name__}")
    return values
