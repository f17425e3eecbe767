"""A byte-level BPE tokenizer trained on the user's corpus, or any `tokenizer.json`.

Byte-pair encoding: Sennrich et al. 2016 (arXiv:1508.07909); over bytes: Radford et al. 2019 (GPT-2), section 2.2.
"""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from andon.limited import LimitError, check_tokenizer
from andon.reading import read_text

EOS = "<|endoftext|>"
EOS_NAMES = (
    EOS,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
    "<｜end▁of▁sentence｜>",  # noqa: RUF001 - as DeepSeek writes it
)  # of published tokenizers, ours first
BYTE_VALUES = 256
SAMPLE_BYTES = 1024  # per token of the vocabulary; four times as many encode text only 1% shorter

# No token crosses these pieces. A line break includes the next line's indentation, so that one token can give the next
# line's block. Each digit is a piece; words and punctuation include the space before them.
PRE_TOKENIZER_PATTERN = r"\s*[\r\n]+[ \t]*|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"


class TokenizerError(ValueError):
    """A tokenizer that cannot be used; the message names the file or key, the rule and the next step."""


class TextMarks(NamedTuple):
    """The tokens around a text: those that the tokenizer's own post-processor puts before it, and the one after it."""

    begin: tuple[int, ...]
    end: int

    @property
    def first(self) -> tuple[int, ...]:
        """What a text begins with; the end of the one before it where the tokenizer puts nothing there."""
        return self.begin or (self.end,)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with at most `vocab_size` tokens, the first being the end-of-document token.

    Raises:
        TokenizerError: `vocab_size` is too small for the 256 bytes and the end-of-document token.
    """
    if vocab_size <= BYTE_VALUES:
        raise TokenizerError(f"model.vocab_size={vocab_size}: 256 bytes and {EOS} need {BYTE_VALUES + 1} ids; raise it")
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def training_sample(texts: Iterable[str], total_bytes: int, vocab_size: int) -> Iterator[str]:
    """The texts on which a vocabulary of this size is trained: evenly spaced, and always the first."""
    share = min(1.0, SAMPLE_BYTES * vocab_size / total_bytes)
    seen = kept = 0
    for text in texts:
        if kept <= share * seen:
            kept += len(text)
            yield text
        seen += len(text)


def load_tokenizer(path: Path, *, foreign: bool = False) -> Tokenizer:
    """Read a `tokenizer.json`.

    A `foreign` one, which lies beside a stranger's weights, is tried first in a process of its own: it may never end.

    Raises:
        TokenizerError: the file is missing, is not a tokenizer, or takes too long or too much memory.
    """
    try:
        text = read_text(path)
        if foreign:
            check_tokenizer(text)
        return Tokenizer.from_str(text)
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}); name a tokenizer.json") from error
    except LimitError as error:
        raise TokenizerError(f"{path}: {error}; save one with the tokenizers library") from error
    except Exception as error:  # the library raises Exception itself for whatever it cannot read
        raise TokenizerError(
            f"{path}: is not a valid tokenizer.json ({error}); save one with the tokenizers library"
        ) from error


def id_count(tokenizer: Tokenizer) -> int:
    """One more than the largest id."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, source: str) -> None:
    """Reject a tokenizer with ids for which the model has no embedding.

    Raises:
        TokenizerError: the largest id is not below `vocab_size`.
    """
    needed = id_count(tokenizer)
    if needed > vocab_size:
        raise TokenizerError(
            f"{source}: ids go up to {needed - 1}, beyond model.vocab_size={vocab_size}; set model.vocab_size={needed}"
        )


def find_eos_id(tokenizer: Tokenizer, source: str) -> int:
    """Id of the end-of-document token.

    Raises:
        TokenizerError: the tokenizer has none of the usual names.
    """
    found = (tokenizer.token_to_id(name) for name in EOS_NAMES)
    eos_id = next((token for token in found if token is not None), None)
    if eos_id is None:
        raise TokenizerError(
            f"{source}: has no end-of-document token; add one of {', '.join(EOS_NAMES)} as a special token"
        )
    return eos_id


def text_marks(tokenizer: Tokenizer, source: str, eos_id: int | None = None) -> TextMarks:
    """The tokens around a text; `eos_id` is the end that the model's other files name.

    Raises:
        TokenizerError: the tokenizer has no end-of-document token, or puts another token after a text.
    """
    end = find_eos_id(tokenizer, source) if eos_id is None else eos_id
    probe = tokenizer.encode("a")
    added = list(zip(probe.ids, probe.special_tokens_mask, strict=True))
    begin = [token for token, _ in takewhile(lambda each: each[1], added)]
    after = [token for token, _ in takewhile(lambda each: each[1], reversed(added[len(begin) :]))]
    if after not in ([], [end]):
        name = tokenizer.id_to_token(after[0])
        raise TokenizerError(
            f"{source}: post_processor puts {name!r} after a text, and the end is {tokenizer.id_to_token(end)!r}; "
            "name one end in both files"
        )
    return TextMarks(tuple(begin), end)


def encode(tokenizer: Tokenizer, texts: list[str], *, parse_special: bool = False) -> list[list[int]]:
    """Ids of each text; no token is added.

    A special token written in a text is encoded as ordinary text, or with `parse_special` as that token.
    """
    tokenizer.no_truncation()  # a tokenizer.json may turn on either
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = not parse_special
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def encode_continuation(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that follows another: without the space that SentencePiece's kind puts before every text."""
    line, joined, alone, probe, after = encode(tokenizer, ["\n", "\n" + text, text, "a", "\na"])
    prepends = after[: len(line)] == line and after[len(line) :] != probe
    return joined[len(line) :] if prepends and joined[: len(line)] == line else alone


def encode_spans(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of a text in which special tokens are tokens, and the characters that each stands for."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = False
    processor = tokenizer.post_processor
    tokenizer.post_processor = None  # a byte-level one would take white space out of the spans
    try:
        encoding = tokenizer.encode(text, add_special_tokens=False)
    finally:
        tokenizer.post_processor = processor
    return encoding.ids, encoding.offsets


def special_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The tokenizer's special tokens, such as the end of a document, which ordinary text must not contain."""
    return tuple(token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special)
