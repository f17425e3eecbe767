"""Instructions: exactly the answers are learned, no token is lost in packing, and no sample sees another."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from andon.core.config import Config, parse_config
from andon.core.data.batch import IGNORE, Batch, DataState
from andon.core.data.chat import ChatTemplate, Turn
from andon.core.data.corpus import CorpusError, find_sources
from andon.core.data.dataset import Dataset, batches, validation_batches
from andon.core.data.instruction_records import InstructionError, has_instructions
from andon.core.data.instructions import (
    EncodedSample,
    PackedSamples,
    encode_turns,
    open_instructions,
    pack_samples,
    split_sample,
)
from andon.core.data.tokenizer import TextMarks, TokenizerError, find_eos_id, train_tokenizer
from andon.core.data.windows import fill_rows
from andon.core.training.loss import loss
from tests.core.foreign import new_model
from tests.core.test_chat import CHATML

PLAIN = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", {}, "plain.jinja")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Bytes, a few merges, and the special tokens of ChatML."""
    made = train_tokenizer(["what is one and one? two, and one more is three. " * 3], 280)
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return made


def write(folder: Path, *records: Any) -> list[str]:
    """A JSONL file of these records; returns `data.paths`."""
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return [str(path)]


def pair(number: int, length: int = 3) -> dict[str, str]:
    """A sample whose words are its number."""
    return {"prompt": f"what is {number}? ", "completion": "one and " * length + str(number)}


def config(paths: list[str], length: int = 48, **training: Any) -> Config:
    """A run on these samples."""
    model = {
        "vocab_size": 290,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    tables = {
        "model": model,
        "training": {"batch_size": 4, "epochs": 1, **training},
        "data": {"paths": paths, "sequence_length": length},
        "validation": {"fraction": 0.2},
    }
    return parse_config(tables, "test")


def opened(
    paths: list[str], tokenizer: Tokenizer, template: ChatTemplate | None = None, length: int = 48
) -> Dataset[PackedSamples]:
    """The samples of these files."""
    return open_instructions(config(paths, length), find_sources(paths), tokenizer, Path("t.json"), template)


def learned(sample: EncodedSample) -> list[int]:
    """The tokens that count."""
    return [int(label) for label in sample.labels if label != IGNORE]


@pytest.mark.tier2
def test_the_first_answer_token_and_the_end_are_learned_and_no_prompt_token_is(tokenizer: Tokenizer) -> None:
    """Behavior: the last prompt token predicts the answer's first, the answer's last predicts the end token."""
    end = find_eos_id(tokenizer, "test")
    sample = encode_turns(
        tokenizer, [Turn("what is one?", learned=False), Turn(" two", learned=True)], TextMarks((), end), chat=False
    )
    prompt, answer = (tokenizer.encode(text).ids for text in ("what is one?", " two"))
    assert [*prompt, *answer] == sample.tokens.tolist()
    assert [IGNORE] * (len(prompt) - 1) + [*answer, end] == sample.labels.tolist()
    assert 4 == sample.bytes


@pytest.mark.tier2
def test_an_answer_without_a_prompt_is_learned_from_its_first_token(tokenizer: Tokenizer) -> None:
    """Behavior: the end token stands before it, as where generation starts without a prompt."""
    end = find_eos_id(tokenizer, "test")
    sample = encode_turns(
        tokenizer, [Turn("", learned=False), Turn("two", learned=True)], TextMarks((), end), chat=False
    )
    assert [*tokenizer.encode("two").ids, end] == learned(sample)
    assert end == sample.tokens[0]


@pytest.mark.tier2
def test_a_chat_is_learned_up_to_the_end_of_each_turn(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: answers and their end-of-turn tokens count, the line break after does not, nothing is added."""
    talk = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b")) * 2]
    paths = write(tmp_path, *[{"messages": [{"role": "user", "content": str(n)}, *talk]} for n in range(6)])
    data = opened(paths, tokenizer, ChatTemplate(CHATML, {}, "chat"))
    end = tokenizer.token_to_id("<|im_end|>")
    rows = next(iter(batches(data, config(paths), DataState())))[0][0]
    counted = [token for token in rows.labels_BT.flatten().tolist() if token != IGNORE]
    answer = [*tokenizer.encode("b").ids, end]
    assert answer * (len(counted) // len(answer)) == counted
    assert tokenizer.token_to_id("<|im_start|>") in rows.tokens_BT


@pytest.mark.tier2
def test_a_turn_without_an_end_gets_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: where a template writes no special token after the answer, the end of a document is learned."""
    paths = write(tmp_path, *[{"messages": [{"role": "assistant", "content": str(n)}]} for n in range(3)])
    data = opened(paths, tokenizer, PLAIN)
    end = find_eos_id(tokenizer, "test")
    assert [end, end, end] == [*data.train.labels_P, *data.validation.labels_P].count(end) * [end]


@pytest.mark.tier2
def test_what_a_sample_writes_is_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: a special token's name in a prompt or answer is letters, and in a message is refused by line."""
    end = find_eos_id(tokenizer, "test")
    found = [Turn("<|endoftext|>", learned=False), Turn("x<|im_end|>", learned=True)]
    sample = encode_turns(tokenizer, found, TextMarks((), end), chat=False)
    assert 1 == [*sample.tokens, *sample.labels].count(end)
    assert tokenizer.token_to_id("<|im_end|>") not in sample.labels
    messages = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(InstructionError, match=r"samples.jsonl:1: messages\[0\].content holds '<\|im_end\|>'"):
        opened(write(tmp_path, {"messages": messages}), tokenizer, PLAIN)


@pytest.mark.tier3
@given(st.data())
def test_no_token_is_lost_in_packing(data: st.DataObject) -> None:
    """Behavior: every answer's token is learned once; samples that fit stay whole; only prompts are ever left out."""
    length = data.draw(st.integers(2, 12))
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12))
    samples = [numbered(100 * n, prompt, answer) for n, (prompt, answer) in enumerate(sizes)]
    packed = pack_samples(samples, length)
    batch = packed.batch(np.arange(packed.windows(length)), length, -1)
    wanted = sorted(label for sample in samples for label in learned(sample))
    assert wanted == sorted(batch.labels_BT[batch.labels_BT != IGNORE].tolist())
    tokens = sorted(batch.tokens_BT[batch.tokens_BT >= 0].tolist())
    assert len(set(tokens)) == len(tokens)
    for sample in samples:
        kept = set(sample.tokens.tolist()) & set(tokens)
        if len(sample.tokens) <= length:
            assert set(sample.tokens.tolist()) == kept
        answers = set(sample.tokens[sample.labels != IGNORE].tolist())
        assert answers <= kept
    assert (batch.labels_BT != IGNORE).any(dim=1).all()  # no row without anything to learn


def numbered(first: int, prompt: int, answer: int) -> EncodedSample:
    """A sample whose tokens count up from `first`: so many of a prompt, and of an answer with its end."""
    ids = np.arange(first, first + prompt + answer)
    return EncodedSample(ids[:-1], np.where(np.arange(1, len(ids)) >= prompt, ids[1:], IGNORE), answer, first)


@pytest.mark.tier3
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 16))
def test_a_long_sample_is_cut_with_a_prompt_before_its_answer(prompt: int, answer: int, length: int) -> None:
    """Behavior: pieces fit and follow each other, each with something to learn, the first with a prompt's half."""
    sample = numbered(0, prompt, answer)
    pieces = split_sample(sample, length)
    assert all(0 < len(tokens) <= length and (labels != IGNORE).any() for tokens, labels in pieces)
    joined = np.concatenate([tokens for tokens, _ in pieces])
    assert sample.tokens[-len(joined) :].tolist() == joined.tolist()
    context = int(np.flatnonzero(pieces[0][1] != IGNORE)[0]) + 1
    assert context >= min(prompt, length // 2)


@pytest.mark.tier2
def test_a_piece_that_is_only_read_is_left_out() -> None:
    """Behavior: of a long turn between two answers, the pieces without an answer's token go, as nothing sees them."""
    ids = np.arange(40)
    sample = EncodedSample(ids[:-1], np.where((ids[1:] < 4) | (ids[1:] > 35), ids[1:], IGNORE), 8, 0)
    kept = [tokens.tolist() for tokens, _ in split_sample(sample, 8)]
    assert [list(range(8)), list(range(32, 39))] == kept


@pytest.mark.tier2
def test_no_sample_sees_another(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: the packed rows' loss is the mean over the samples alone, weighted by their answers' tokens."""
    paths = write(tmp_path, *[pair(n, 1 + n % 3) for n in range(12)])
    data = opened(paths, tokenizer)
    model = new_model(vocab_size=290)
    rows = data.train.batch(np.arange(data.train.windows(48)), 48, data.eos_id)
    assert rows.documents_BT is not None
    total, count = 0.0, 0
    for row in range(len(rows.tokens_BT)):
        owners = rows.documents_BT[row]
        for number in owners.unique():
            mine = owners == number
            alone = (rows.tokens_BT[row][mine][None], rows.labels_BT[row][mine][None])
            tokens = int((alone[1] != IGNORE).sum())
            total += loss(model, Batch(*alone, None)).item() * tokens
            count += tokens
    torch.testing.assert_close(total / count, loss(model, rows).item(), rtol=1e-5, atol=0)


@pytest.mark.tier2
def test_an_epoch_visits_every_row_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: the data order of text serves samples too: each row once an epoch, another order in the next."""
    paths = write(tmp_path, *[pair(n) for n in range(30)])
    run = config(paths, epochs=2)
    data = opened(paths, tokenizer)
    rows = data.train.windows(48)
    visited = [row for (batch,), _ in batches(data, run, DataState()) for row in batch.tokens_BT.tolist()]
    assert 2 * rows == len(visited)
    assert sorted(visited[:rows]) == sorted(visited[rows:])
    assert visited[:rows] != visited[rows:]
    assert -(-rows // 4) * 2 == data.steps(run)
    assert data.validation.windows(48) == sum(len(batch.tokens_BT) for batch in validation_batches(data, run))


@pytest.mark.tier2
def test_equal_samples_are_held_out_together(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: no text of the validation side is in the training side, however often it stands in the files."""
    data = opened(write(tmp_path, *[pair(n % 5) for n in range(40)]), tokenizer)
    sides = [set(side.batch(np.arange(side.windows(48)), 48, -1).labels_BT.flatten().tolist()) for side in data[:2]]
    numbers = [{tokenizer.encode(str(n)).ids[-1] for n in range(5)} & side for side in sides]
    assert not numbers[0] & numbers[1]
    assert all(numbers)


@pytest.mark.tier2
def test_the_note_says_what_was_done(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: samples, rows, tokens, learned tokens, and what was cut or left out, are said."""
    long = {"prompt": "what is one and one? " * 20, "completion": "two " * 40}
    note = opened(write(tmp_path, long, *[pair(n) for n in range(4)]), tokenizer, length=16).note
    assert note.startswith("5 samples in ")
    assert "samples are longer than a row and were split" in note
    assert "longer" not in opened(write(tmp_path, *[pair(n) for n in range(4)]), tokenizer).note


@pytest.mark.tier2
@given(st.lists(st.integers(1, 20), max_size=40))
def test_rows_hold_everything_once(lengths: list[int]) -> None:
    """Behavior: each item goes into one row, none overflows, and no two rows could be one."""
    rows = fill_rows(lengths, 20)
    assert list(range(len(lengths))) == sorted(item for row in rows for item in row)
    sizes = sorted(sum(lengths[item] for item in row) for row in rows)
    assert all(size <= 20 for size in sizes)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > 20


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"prompt": "a", "completion": ', "is not valid JSON"),
        ('{"prompt": "a"}', "expected 'prompt' and 'completion', or 'messages'; found 'prompt'"),
        ('{"messages": [], "prompt": "a", "completion": "b"}', "expected 'prompt' and 'completion', or 'messages'"),
        ('["a"]', "found list"),
        ('{"prompt": 3, "completion": "b"}', "prompt=3: expected a string"),
        ('{"prompt": "a", "completion": ""}', "completion is empty"),
        ('{"prompt": "a", "completion": "\\ud800"}', "'completion' holds half of a surrogate pair"),
        ('{"messages": []}', "messages=[]: expected a list of objects"),
        ('{"messages": ["a"]}', "messages[0]='a': expected an object"),
        ('{"messages": [{"role": "assistant", "content": null}]}', "messages[0].content=None: expected a string"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "holds messages and the model has no chat template"),
    ],
)
def test_a_broken_line_is_named(line: str, complaint: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: file and line, the rule, and what stands there."""
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(pair(1)) + "\n\n" + line + "\n")
    with pytest.raises((InstructionError, CorpusError)) as caught:
        opened([str(path)], tokenizer)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert complaint in str(caught.value)


@pytest.mark.tier2
def test_text_beside_samples_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: a text file among instructions is named; plain text alone is recognized as such."""
    paths = write(tmp_path, pair(1), pair(2))
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(InstructionError, match=r"notes\.txt: is not a .jsonl file, among files of instructions"):
        opened([*paths, str(tmp_path / "notes.txt")], tokenizer)
    assert has_instructions(find_sources(paths))
    assert not has_instructions(find_sources([str(tmp_path / "notes.txt")]))
    assert not has_instructions(find_sources(write(tmp_path, {"text": "words"})))


@pytest.mark.tier2
def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Behavior: ids beyond the model's vocabulary, and one sample alone, are refused."""
    paths = write(tmp_path, pair(1))
    with pytest.raises(CorpusError, match="1 different documents"):
        opened(paths, tokenizer)
    larger = Tokenizer.from_str(tokenizer.to_str())
    larger.add_tokens([f"<{n}>" for n in range(20)])
    with pytest.raises(TokenizerError, match=r"t.json: ids go up to"):
        opened(paths, larger)
