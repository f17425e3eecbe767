"""The tokenizer gives back every byte, the same one each time, and a foreign one that does not fit is refused."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from andon.core.data.tokenizer import (
    EOS,
    TokenizerError,
    check_vocabulary,
    encode,
    find_eos_id,
    id_count,
    load_tokenizer,
    train_tokenizer,
    training_sample,
)

TEXT = '''def area(width, height):
    """Product of 2 sides."""
    if width < 0:
        raise ValueError("width")

    return width * height
'''


def words(*names: str) -> Tokenizer:
    """A foreign tokenizer: whole words, ids in the order given."""
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=names[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.tier1
def test_every_text_is_given_back() -> None:
    """Behavior: bytes are the alphabet, so what the training text never held round-trips too."""
    tokenizer = train_tokenizer([TEXT], 300)
    texts = [TEXT, "naïve 漢字 🙂\r\n\t\x0b  \n", "", "x" * 1000, "\x00\x7f"]
    assert texts == [tokenizer.decode(ids, skip_special_tokens=False) for ids in encode(tokenizer, texts)]


@pytest.mark.tier1
def test_a_line_break_and_the_indentation_after_it_become_one_token() -> None:
    """Behavior: which block a line belongs to is one choice."""
    tokenizer = train_tokenizer([TEXT * 20], 400)
    (ids,) = encode(tokenizer, ["0:\n        x\n    y\n\n    z"])
    assert ["0", ":", "Ċ" + "Ġ" * 8, "x", "Ċ" + "Ġ" * 4, "y", "ĊĊ" + "Ġ" * 4, "z"] == [
        tokenizer.id_to_token(token) for token in ids
    ]


@pytest.mark.tier1
def test_digits_stand_alone() -> None:
    """Behavior: a number is spelled digit by digit, however often it was seen."""
    tokenizer = train_tokenizer(["1234 " * 100], 300)
    (ids,) = encode(tokenizer, ["1234"])
    assert ["1", "2", "3", "4"] == [tokenizer.id_to_token(token) for token in ids]


@pytest.mark.tier1
def test_the_vocabulary_is_at_most_of_the_given_size() -> None:
    """Behavior: bytes and the end of a document are always in it; a small corpus needs fewer."""
    assert 280 == id_count(train_tokenizer([TEXT], 280))
    assert 257 == id_count(train_tokenizer([TEXT], 257))
    assert 257 == id_count(train_tokenizer(["a"], 5000))


@pytest.mark.tier1
def test_a_vocabulary_too_small_for_the_bytes_is_refused() -> None:
    """Behavior: the message names key, value and the least that works."""
    with pytest.raises(TokenizerError, match=r"model\.vocab_size=256: .* need 257"):
        train_tokenizer([TEXT], 256)


@pytest.mark.tier1
def test_the_name_of_a_special_token_in_a_text_is_text() -> None:
    """Behavior: a corpus that mentions the end of a document does not end there."""
    tokenizer = train_tokenizer([TEXT], 300)
    text = f"before{EOS}after"
    (ids,) = encode(tokenizer, [text])
    assert find_eos_id(tokenizer, "ours") not in ids
    assert text == tokenizer.decode(ids)


@pytest.mark.tier1
def test_a_foreign_tokenizer_adds_cuts_and_pads_nothing() -> None:
    """Behavior: template, truncation and padding that a tokenizer.json asks for do not touch a corpus."""
    tokenizer = words("<unk>", "<s>", "</s>", "one", "two")
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=6, pad_id=0)
    assert [[3, 4, 3], [4]] == encode(tokenizer, ["one two one", "two"])


@pytest.mark.tier1
def test_ids_beyond_the_models_vocabulary_are_refused() -> None:
    """Behavior: the largest id decides, not how many there are, and the message says what to set."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 9}))
    assert 10 == id_count(tokenizer)
    check_vocabulary(tokenizer, 10, "t.json")
    with pytest.raises(TokenizerError, match=r"t\.json: ids go up to 9, beyond model\.vocab_size=9; .*=10"):
        check_vocabulary(tokenizer, 9, "t.json")


@pytest.mark.tier1
def test_the_end_of_a_document_is_known_by_its_published_names() -> None:
    """Behavior: the first of the names in use counts, id 0 too; a tokenizer with none is refused."""
    assert 0 == find_eos_id(words("<|endoftext|>", "</s>"), "t.json")
    assert 1 == find_eos_id(words("<unk>", "</s>"), "t.json")
    with pytest.raises(TokenizerError, match=r"t\.json: has no end-of-document token"):
        find_eos_id(words("<unk>", "a"), "t.json")


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"{", "is not a valid tokenizer.json"),
        (json.dumps({"model_type": "llama"}).encode(), "is not a valid tokenizer.json"),
        (b"\xff\xfe\0", "is not a valid tokenizer.json"),
    ],
)
def test_what_is_not_a_tokenizer_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Behavior: missing, truncated, another program's JSON, and binary files each give one error with the path."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: {message}"):
        load_tokenizer(path)


@pytest.mark.tier1
def test_a_saved_tokenizer_is_read_back(tmp_path: Path) -> None:
    """Behavior: the file holds all of it."""
    tokenizer = train_tokenizer([TEXT], 300)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    assert tokenizer.to_str() == load_tokenizer(tmp_path / "tokenizer.json").to_str()


@pytest.mark.tier1
def test_a_sample_is_spread_evenly_and_keeps_what_is_small_whole() -> None:
    """Behavior: a kilobyte for each token of the vocabulary, from everywhere in the corpus; the first text always."""
    texts = [f"{number:04}" * 256 for number in range(1000)]
    chosen = [int(text[:4]) for text in training_sample(texts, 1024 * 1000, vocab_size=250)]
    assert 0 == chosen[0]
    assert 245 <= len(chosen) <= 255
    assert {4} == {after - before for before, after in itertools.pairwise(chosen)}
    assert texts == list(training_sample(texts, 1024 * 1000, vocab_size=1000))
    assert ["only"] == list(training_sample(["only"], 10**9, vocab_size=257))


@pytest.mark.tier3
def test_training_gives_the_same_tokenizer_in_every_process() -> None:
    """Behavior: neither the seed of Python's hashes nor the number of threads changes a merge."""
    script = (
        "import ast, hashlib\nfrom andon.core.data.tokenizer import train_tokenizer\n"
        "texts = [open(module.__file__).read() for module in (ast, hashlib)]\n"
        "print(hashlib.sha256(train_tokenizer(texts, 1500).to_str().encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": ".", "PYTHONHASHSEED": str(seed), "RAYON_NUM_THREADS": str(seed)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in (1, 2, 5)
    }
    assert 1 == len(seen)
