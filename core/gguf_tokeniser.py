"""The byte-level BPE tokeniser that a GGUF file's metadata describes."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL, USER_DEFINED = 3, 4  # gguf.md: tokenizer.ggml.token_type
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
# How text is cut before merging, by `tokenizer.ggml.pre`. Others cut differently and would encode wrongly in silence.
CUTS = {
    "gpt-2": BYTES,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
}


def read_tokeniser(fields: dict[str, Any]) -> Tokenizer | None:
    """A tokeniser from GGUF metadata, or None where it is of a kind not read here (SentencePiece, other cuts)."""
    cut = CUTS.get(fields.get("tokenizer.ggml.pre", ""))
    if fields.get("tokenizer.ggml.model") != "gpt2" or cut is None:
        return None
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokeniser = Tokenizer(models.BPE(vocabulary, merges))
    tokeniser.pre_tokenizer = cut
    tokeniser.decoder = decoders.ByteLevel()
    tokeniser.add_special_tokens(
        [AddedToken(token, normalized=False) for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    )
    tokeniser.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    )
    return tokeniser
