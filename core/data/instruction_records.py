"""Instruction data in JSONL: each line is one sample, with TRL's keys.

`prompt` and `completion` are two consecutive texts; `messages` is a conversation. Other keys are ignored.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from andon.core.data.chat import Message, Turn
from andon.core.data.corpus import Source, check_text, is_jsonl, records

MESSAGES, PROMPT, COMPLETION = "messages", "prompt", "completion"


class InstructionError(ValueError):
    """A sample that cannot be learned from; the message names file and line, the rule and the next step."""


class InstructionRecord(NamedTuple):
    """One sample: its file and line, and either turns or the messages that a template renders as turns."""

    where: str
    turns: list[Turn]
    messages: list[Message]


def has_instructions(sources: list[Source]) -> bool:
    """Whether the first line of the first JSONL file is a sample; then every line of every file must be one."""
    first = next((record for source in sources if is_jsonl(source) for _, record in records(source)), None)
    return isinstance(first, dict) and (MESSAGES in first or PROMPT in first)


def read_instructions(source: Source, special: tuple[str, ...]) -> Iterator[InstructionRecord]:
    """Every sample of a file; no message may contain one of the `special` tokens.

    Raises:
        CorpusError: a line that is not valid JSON.
        InstructionError: a file that is not valid JSONL, or a line that is not a sample.
    """
    if not is_jsonl(source):
        raise InstructionError(f"{source.path}: is not a .jsonl file, among files of instructions; train on one kind")
    for where, record in records(source):
        keys = {MESSAGES, PROMPT, COMPLETION} & record.keys() if isinstance(record, dict) else set()
        if keys == {MESSAGES}:
            yield InstructionRecord(where, [], _messages(where, record[MESSAGES], special))
        elif keys == {PROMPT, COMPLETION}:
            yield InstructionRecord(where, _prompt_and_completion(where, record), [])
        else:
            found = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
            raise InstructionError(
                f"{where}: expected 'prompt' and 'completion', or 'messages'; found {found or 'nothing'}"
            )


def _prompt_and_completion(where: str, record: dict[str, Any]) -> list[Turn]:
    for key in (PROMPT, COMPLETION):
        if not isinstance(record[key], str):
            raise InstructionError(f"{where}: {key}={record[key]!r:.60}: expected a string")
        check_text(where, key, record[key])
    if not record[COMPLETION]:
        raise InstructionError(f"{where}: completion is empty, so there is nothing to learn; remove the line")
    return [Turn(record[PROMPT], learned=False), Turn(record[COMPLETION], learned=True)]


def _messages(where: str, messages: Any, special: tuple[str, ...]) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise InstructionError(f"{where}: messages={messages!r:.60}: expected a list of objects")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InstructionError(f"{where}: messages[{number}]={message!r:.60}: expected an object")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise InstructionError(f"{where}: messages[{number}].{key}={message.get(key)!r:.60}: expected a string")
            check_text(where, key, message[key])
        named = next((name for name in special if name in message["content"]), None)
        if named:
            raise InstructionError(
                f"{where}: messages[{number}].content holds {named!r}, which the tokenizer reads as a special token; "
                "write it differently"
            )
    return messages
