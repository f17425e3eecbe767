"""Instruction data in JSONL: each line is one sample, in one of the shapes that are published.

| shape | keys | read as |
| --- | --- | --- |
| OpenAI, TRL | `messages`, `tools` | a conversation; `weight` 0 leaves an assistant's message out of what is learned |
| ShareGPT | `conversations` of `from` and `value` | a conversation |
| TRL | `prompt` and `completion`, both text | two consecutive texts |
| TRL | `prompt` and `completion`, both lists of messages | a conversation, of which the completion is learned |

Other shapes, and keys that say something about what is learned or read, are refused by name; other keys are ignored.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from andon.core.data.chat import Conversation, Message, Turn
from andon.core.data.corpus import Source, check_text, is_jsonl, records
from andon.reading import ReadError, parse_json

MESSAGES, PROMPT, COMPLETION, SHAREGPT, TOOLS = "messages", "prompt", "completion", "conversations", "tools"
VARIABLES = "chat_template_kwargs"
EXPECTED = "expected 'prompt' and 'completion', or 'messages'"
# ShareGPT's speakers, by the role that templates know.
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
# Shapes and keys that are not read: what to write instead.
OTHER_SHAPES = {
    "instruction": "alpaca's keys have no fixed prompt: write 'prompt' and 'completion', or 'messages'",
    "chosen": "pairs of preferences are not trained on: write the chosen answer's 'messages'",
    "question": "write 'prompt' and 'completion', or 'messages'",
}
OTHER_KEYS = {
    "functions": "write 'tools'",
    "system": "write a first message with the role 'system'",
    "system_prompt": "write a first message with the role 'system'",
    "images": "only text is read",
    "videos": "only text is read",
    "audios": "only text is read",
    "documents": "write them into a message",
}
# With these other trainers say which messages are learned.
LOSS_KEYS = ("train", "training", "trainable", "train_on", "loss", "loss_mask", "mask", "masked", "training_detail")


class InstructionError(ValueError):
    """A sample that cannot be learned from; the message names file and line, the rule and the next step."""


class InstructionRecord(NamedTuple):
    """One sample: its file and line, and either turns or the conversation that a template renders as turns."""

    where: str
    turns: list[Turn]
    conversation: Conversation | None


def has_instructions(sources: list[Source], text_field: str = "text") -> bool:
    """Whether the first line of the first JSONL file is a sample; then every line of every file must be one.

    A line with `text_field` is text, except where it holds a shape that is read as a sample.
    """
    first = next((record for source in sources if is_jsonl(source) for _, record in records(source)), None)
    if not isinstance(first, dict):
        return False
    others = () if text_field in first else OTHER_SHAPES
    return any(key in first for key in (MESSAGES, PROMPT, SHAREGPT, *others))


def read_instructions(source: Source, special: tuple[str, ...]) -> Iterator[InstructionRecord]:
    """Every sample of a file; no message may contain one of the `special` tokens.

    Raises:
        CorpusError: a line that is not valid JSON.
        InstructionError: a file that is not valid JSONL, or a line that is not a sample.
    """
    if not is_jsonl(source):
        raise InstructionError(f"{source.path}: is not a .jsonl file, among files of instructions; train on one kind")
    for where, record in records(source):
        yield _record(where, record, special)


def _record(where: str, record: Any, special: tuple[str, ...]) -> InstructionRecord:
    keys = {MESSAGES, PROMPT, COMPLETION, SHAREGPT} & record.keys() if isinstance(record, dict) else set()
    if keys not in ({MESSAGES}, {SHAREGPT}, {PROMPT, COMPLETION}):
        raise InstructionError(f"{where}: {_another_shape(record)}")
    if keys == {PROMPT, COMPLETION} and isinstance(record[PROMPT], str):
        return InstructionRecord(where, _prompt_and_completion(where, record), None)
    return InstructionRecord(where, [], _conversation(where, record, special))


def _conversation(where: str, record: dict[str, Any], special: tuple[str, ...]) -> Conversation:
    for key, advice in OTHER_KEYS.items():
        if record.get(key):
            raise InstructionError(f"{where}: {key}={record[key]!r:.60} is not read beside a conversation; {advice}")
    keys = [key for key in (MESSAGES, SHAREGPT, PROMPT, COMPLETION) if key in record]
    messages = [message for key in keys for message in _part(where, key, record)]
    checked = [_message(f"{where}: {name}", message, special) for name, message in messages]
    return Conversation(where, checked, _tools(where, record), _variables(where, record))


def _another_shape(record: Any) -> str:
    """What was found, and what to write."""
    if not isinstance(record, dict):
        return f"{EXPECTED}; found {type(record).__name__}"
    found = ", ".join(map(repr, record)) or "nothing"
    advice = next((f": {OTHER_SHAPES[key]}" for key in record if key in OTHER_SHAPES), "")
    return f"{EXPECTED}; found {found}{advice}"


def _prompt_and_completion(where: str, record: dict[str, Any]) -> list[Turn]:
    for key in (PROMPT, COMPLETION):
        if not isinstance(record[key], str):
            raise InstructionError(f"{where}: {key}={record[key]!r:.60}: expected a string")
        check_text(where, key, record[key])
    if not record[COMPLETION]:
        raise InstructionError(f"{where}: completion is empty, so there is nothing to learn; remove the line")
    for key in (TOOLS, VARIABLES):
        if record.get(key):
            raise InstructionError(f"{where}: {key} is read beside messages alone, as a chat template writes it")
    return [Turn(record[PROMPT], learned=False), Turn(record[COMPLETION], learned=True)]


def _part(where: str, key: str, record: dict[str, Any]) -> Iterator[tuple[str, Message]]:
    """Name and content of each message under a key; a prompt's are context, ShareGPT's are renamed."""
    messages = record[key]
    if not isinstance(messages, list) or not messages:
        wanted = {PROMPT: "a string", COMPLETION: "a list of messages, as the prompt is"}.get(key, "a list of objects")
        raise InstructionError(f"{where}: {key}={messages!r:.60}: expected {wanted}")
    for number, message in enumerate(messages):
        name = f"{key}[{number}]"
        if not isinstance(message, dict):
            raise InstructionError(f"{where}: {name}={message!r:.60}: expected an object")
        renamed = _from_sharegpt(f"{where}: {name}", message) if key == SHAREGPT and "from" in message else message
        context = key == PROMPT and renamed.get("role") == "assistant"
        yield name, renamed | {"weight": 0} if context else renamed


def _from_sharegpt(where: str, message: dict[str, Any]) -> Message:
    if message["from"] not in SPEAKERS:
        raise InstructionError(
            f"{where}.from={message['from']!r:.60}: known are {', '.join(SPEAKERS)}; write 'messages' with roles"
        )
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {"role": SPEAKERS[message["from"]], "content": message.get("value"), **rest}


def _message(where: str, message: Message, special: tuple[str, ...]) -> Message:
    calls = bool(message.get("tool_calls"))
    for key in ("role", "content"):
        value = message.get(key)
        if not isinstance(value, str) and not (key == "content" and value is None and calls):
            raise InstructionError(f"{where}.{key}={value!r:.60}: expected a string")
    key = next((each for each in LOSS_KEYS if each in message), None)
    if key is not None:
        raise InstructionError(
            f"{where}.{key}={message[key]!r:.60} is not read; for an answer that is not learned write 'weight': 0"
        )
    if message.get("function_call"):
        raise InstructionError(f"{where}.function_call is not read; write 'tool_calls'")
    _check_weight(where, message)
    for name, text in _texts("", message):
        check_text(where, name, text)
        _check_special(f"{where}.{name}", text, special)
    return message


def _check_special(where: str, text: str, special: tuple[str, ...]) -> None:
    named = next((token for token in special if token in text), None)
    if named:
        raise InstructionError(
            f"{where} holds {named!r}, which the tokenizer reads as a special token; write it differently"
        )


def _check_weight(where: str, message: Message) -> None:
    weight = message.get("weight")
    if weight is None:
        return
    if weight not in (0, 1) or isinstance(weight, bool):
        raise InstructionError(f"{where}.weight={weight!r:.60}: expected 0 (not learned) or 1")
    if weight and message["role"] != "assistant":
        raise InstructionError(
            f"{where}.weight={weight!r}: the role {message['role']!r} is never learned; remove the weight"
        )


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every string in a message, by the path to it."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _texts(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _texts(f"{name}[{number}]", part)


def _tools(where: str, record: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The tools on offer: a list of objects, or the same as JSON in a string, as tables of data sets hold it."""
    tools = record.get(TOOLS)
    try:
        tools = parse_json(tools) if isinstance(tools, str) and tools else tools
    except ReadError as error:
        raise InstructionError(f"{where}: tools is text and {error}; write a list of objects") from error
    if tools and (not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools)):
        raise InstructionError(f"{where}: tools={tools!r:.60}: expected a list of objects")
    for name, text in _texts(TOOLS, tools):
        check_text(where, name, text)
    return tools or None


def _variables(where: str, record: dict[str, Any]) -> dict[str, Any]:
    """What else the template is told, such as `enable_thinking`."""
    variables = record.get(VARIABLES) or {}
    if not isinstance(variables, dict):
        raise InstructionError(f"{where}: {VARIABLES}={variables!r:.60}: expected an object")
    return variables
