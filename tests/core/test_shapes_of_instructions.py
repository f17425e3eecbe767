"""The shapes in which instructions are published: each is read for what it says, or refused by its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from andon.core.data.batch import IGNORE
from andon.core.data.chat import ChatTemplate, Conversation, Turn, render_turns
from andon.core.data.corpus import CorpusError, documents, find_sources
from andon.core.data.instruction_records import InstructionError, has_instructions, read_instructions
from andon.core.data.instructions import encode_turns
from andon.core.data.tokenizer import TextMarks, text_marks
from tests.core.published_shapes import SPECIAL, TALK, TEMPLATES, tokenizer_of

pytestmark = pytest.mark.tier2

ASKED, SAID = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "get_tide"}}


def read(folder: Path, *records: Any) -> list[Conversation]:
    """The conversations of these lines."""
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sources = find_sources([str(folder / "a.jsonl")])
    assert has_instructions(sources)
    found = [record.conversation for record in read_instructions(sources[0], ("<|end|>",))]
    return [each for each in found if each is not None]


@pytest.mark.parametrize(
    ("record", "messages", "rest"),
    [
        ({"messages": [ASKED, SAID], "id": 7}, [ASKED, SAID], (None, {})),
        ({"messages": [ASKED, SAID], "tools": [TOOL]}, [ASKED, SAID], ([TOOL], {})),
        ({"messages": [ASKED, SAID], "tools": json.dumps([TOOL])}, [ASKED, SAID], ([TOOL], {})),
        ({"messages": [ASKED, SAID], "tools": []}, [ASKED, SAID], (None, {})),
        ({"messages": [ASKED, SAID], "chat_template_kwargs": {"a": 1}}, [ASKED, SAID], (None, {"a": 1})),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello", "weight": 0}]},
            [ASKED, SAID | {"weight": 0}],
            (None, {}),
        ),
        ({"conversations": [ASKED, SAID]}, [ASKED, SAID], (None, {})),
        (
            {"prompt": [ASKED, SAID, ASKED], "completion": [SAID]},
            [ASKED, SAID | {"weight": 0}, ASKED, SAID],
            (None, {}),
        ),
    ],
)
def test_a_shape_is_read(tmp_path: Path, record: Any, messages: list[Any], rest: tuple[Any, Any]) -> None:
    """Behavior: OpenAI's, ShareGPT's and TRL's samples are the same conversation, a prompt's answers being context."""
    (found,) = read(tmp_path, record)
    assert (messages, *rest) == (found.messages, found.tools, found.variables)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (
            {"instruction": "a", "input": "", "output": "b"},
            "found 'instruction', 'input', 'output': alpaca's keys have",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pairs of preferences are not trained on"),
        (
            {"question": "a", "answer": "b"},
            "expected 'prompt' and 'completion', or 'messages'; found 'question', 'answer'",
        ),
        (
            {"messages": [ASKED, SAID], "functions": [TOOL]},
            "functions=[{'type': 'function', 'function': {'name': 'get_tide'}}] is",
        ),
        (
            {"messages": [ASKED, SAID], "system": "Be kind."},
            "system='Be kind.' is not read beside a conversation; write a",
        ),
        ({"messages": [ASKED, SAID], "tools": "no JSON"}, "tools is text and is not valid JSON"),
        ({"messages": [ASKED, SAID], "tools": ["get_tide"]}, "tools=['get_tide']: expected a list of objects"),
        ({"messages": [ASKED, SAID], "chat_template_kwargs": [1]}, "chat_template_kwargs=[1]: expected an object"),
        (
            {"messages": [ASKED, SAID | {"train": False}]},
            "messages[1].train=False is not read; for an answer that is not",
        ),
        ({"messages": [ASKED, SAID | {"weight": 0.5}]}, "messages[1].weight=0.5: expected 0 (not learned) or 1"),
        ({"messages": [ASKED, SAID | {"weight": False}]}, "messages[1].weight=False: expected 0"),
        ({"messages": [ASKED | {"weight": 1}, SAID]}, "messages[0].weight=1: the role 'user' is never learned"),
        (
            {"messages": [ASKED, {"role": "assistant", "function_call": {"name": "f"}, "content": ""}]},
            "write 'tool_calls'",
        ),
        (
            {"messages": [ASKED, SAID | {"reasoning_content": "a<|end|>"}]},
            "messages[1].reasoning_content holds '<|end|>'",
        ),
        (
            {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text"}]}]},
            "messages[1].content=[{'type': 'text'}]",
        ),
        (
            {"conversations": [{"from": "bing", "value": "a"}]},
            "conversations[0].from='bing': known are human, user, gpt",
        ),
        ({"conversations": [{"from": "human"}]}, "conversations[0].content=None: expected a string"),
        ({"prompt": [ASKED], "completion": "b"}, "completion='b': expected a list of messages, as"),
        ({"prompt": "a", "completion": "b", "tools": [TOOL]}, "tools is read beside messages alone"),
    ],
)
def test_another_shape_is_refused(tmp_path: Path, record: Any, complaint: str) -> None:
    """Behavior: file, line, key and what to write instead; nothing that says what is learned is passed over."""
    with pytest.raises(InstructionError) as caught:
        read(tmp_path, record)
    assert str(caught.value).startswith(f"{tmp_path / 'a.jsonl'}:1: ")
    assert complaint in str(caught.value)


def test_a_call_without_words_is_an_answer(tmp_path: Path) -> None:
    """Behavior: content may be absent where tools are called, as OpenAI writes it."""
    call = {"role": "assistant", "content": None, "tool_calls": [TOOL]}
    (found,) = read(tmp_path, {"messages": [ASKED, call]})
    assert [ASKED, call] == found.messages


def test_text_that_a_data_set_brings_is_text(tmp_path: Path) -> None:
    """Behavior: lines with the field of text are plain text, whatever stands beside it."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": "a", "output": "b", "text": "a b"}) + "\n")
    assert not has_instructions(find_sources([str(tmp_path / "a.jsonl")]))
    assert has_instructions(find_sources([str(tmp_path / "a.jsonl")]), "body")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        (
            "a.json",
            json.dumps([{"messages": [ASKED, SAID]}] * 2),
            "a.json: holds a JSON array of 2 objects, not text; write one",
        ),
        ("a.json", json.dumps([{"prompt": "a"}], indent=2), "a.json: holds a JSON array of 1 objects, not text"),
        ("a.txt", "\n [{}]", "a.txt: holds a JSON array of 1 objects, not text"),
        (
            "a.json",
            '{"messages": []}\n{"messages": []}\n',
            "a.json: holds a JSON object on each line, not text; rename it",
        ),
        ("a.jsonl", json.dumps([{"prompt": "a"}]), "a.jsonl: begins with a JSON array; write one object a line"),
        (
            "a.jsonl",
            json.dumps([{"prompt": "a"}], indent=2),
            "a.jsonl: begins with a JSON array; write one object a line",
        ),
    ],
)
def test_records_in_a_file_of_text_are_refused(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    """Behavior: samples are not learned as braces and quotes: the file, what it holds and the next step are named."""
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError) as caught:
        list(documents(find_sources([str(tmp_path / name)]), "text"))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("text", ["[{not JSON}]", '{"a": 1}', '{"a": 1}\nwords', "[1, 2]", '[{"a": 1}, 2]'])
def test_text_with_braces_is_text(tmp_path: Path, text: str) -> None:
    """Behavior: what is no list of records is a document like any other."""
    (tmp_path / "a.json").write_text(text)
    assert [text] == [each for _, each in documents(find_sources([str(tmp_path / "a.json")]), "text")]


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_conversation_is_encoded_as_a_whole(kind: str) -> None:
    """Reference: the ids of the rendered text, of which exactly the answers and their ends are learned."""
    tokenizer = tokenizer_of(kind)
    names = {"bos_token": "<s>", "eos_token": "</s>"} if kind == "llama2" else {"bos_token": "<|begin_of_text|>"}
    (turns,) = render_turns(ChatTemplate(TEMPLATES[kind], names, "t"), [Conversation("x", TALK)])
    marks = text_marks(tokenizer, "t", 2)
    sample = encode_turns(tokenizer, turns, marks, chat=True)
    tokenizer.encode_special_tokens = False
    whole = tokenizer.encode("".join(turn.text for turn in turns), add_special_tokens=False).ids
    ids = [*sample.tokens.tolist(), int(sample.labels[-1])]
    assert whole == ids[: len(whole)]
    learned = [int(label) for label in sample.labels if label != IGNORE]
    answers = "".join(turn.text for turn in turns if turn.learned)
    said = tokenizer.decode(learned[: len(learned) - (len(ids) - len(whole))], skip_special_tokens=False)
    assert answers.strip() == said.strip()


def test_a_token_of_both_sides_is_learned() -> None:
    """Behavior: one that begins in the header and ends in the answer is the answer's, as in transformers' mask."""
    tokenizer = tokenizer_of("chatml")
    whole = tokenizer.encode("What is").tokens
    cut = len(whole[0]) + 2  # within " is"
    turns = [Turn("What is"[:cut], learned=False), Turn("What is"[cut:], learned=True)]
    sample = encode_turns(tokenizer, turns, TextMarks((), 0), chat=True)
    assert tokenizer.encode("What is").ids == sample.tokens.tolist()
    assert sample.labels[-2] == sample.tokens[-1]


def test_a_token_that_an_answer_begins_is_learned() -> None:
    """Behavior: one that begins in the answer and ends in the turn after it is the answer's, too."""
    tokenizer = tokenizer_of("chatml")
    words = [("The", False), (" s", True), ("ea", False), (" is", True)]
    assert " sea" == tokenizer.decode(tokenizer.encode("The sea is").ids[1:2])
    sample = encode_turns(tokenizer, [Turn(*each) for each in words], TextMarks((), 0), chat=True)
    assert sample.tokens.tolist()[1] == sample.labels[0]


def test_white_space_before_an_answer_is_not_learned() -> None:
    """Behavior: a byte-level post-processor that trims a token's span does not move it into the answer."""
    tokenizer = tokenizer_of("llama3")
    turns = [Turn("is ", learned=False), Turn("\n3", learned=True)]
    sample = encode_turns(tokenizer, turns, TextMarks((), 1), chat=True)
    learned = [int(label) for label in sample.labels if label != IGNORE]
    assert "\n3" == tokenizer.decode(learned[:-1])
