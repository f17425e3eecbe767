"""Lines of instruction data: each line of JSONL is one sample, in TRL's spelling.

`prompt` and `completion` are two texts that follow each other; `messages` a conversation. Other keys are left alone.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from andon.core.data.chat import Message, Turn
from andon.core.data.corpus import Source, check_text, is_jsonl, records

MESSAGES, PROMPT, COMPLETION = "messages", "prompt", "completion"


class InstructionError(ValueError):
    """A sample that cannot be learned from; the message names file and line, the rule and the next step."""


class Line(NamedTuple):
    """A line of a file: its name, and either turns or the messages that a template writes as turns."""

    where: str
    turns: list[Turn]
    messages: list[Message]


def has_instructions(sources: list[Source]) -> bool:
    """Whether the first line of the first JSONL file is a sample; then all lines of all files must be one."""
    first = next((record for source in sources if is_jsonl(source) for _, record in records(source)), None)
    return isinstance(first, dict) and (MESSAGES in first or PROMPT in first)


def read_lines(source: Source, special: tuple[str, ...]) -> Iterator[Line]:
    """Every sample of a file; no message may hold one of the `special` tokens' names.

    Raises:
        CorpusError: a line that is no JSON.
        InstructionError: a file that is no JSONL, or a line that is no sample.
    """
    if not is_jsonl(source):
        raise InstructionError(f"{source.path}: is no .jsonl and stands beside instructions; train on one of both")
    for where, record in records(source):
        keys = {MESSAGES, PROMPT, COMPLETION} & record.keys() if isinstance(record, dict) else set()
        if keys == {MESSAGES}:
            yield Line(where, [], _messages(where, record[MESSAGES], special))
        elif keys == {PROMPT, COMPLETION}:
            yield Line(where, _pair(where, record), [])
        else:
            found = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
            raise InstructionError(
                f"{where}: expected 'prompt' and 'completion', or 'messages'; found {found or 'nothing'}"
            )


def _pair(where: str, record: dict[str, Any]) -> list[Turn]:
    for key in (PROMPT, COMPLETION):
        if not isinstance(record[key], str):
            raise InstructionError(f"{where}: {key}={record[key]!r:.60}: expected a text")
        check_text(where, key, record[key])
    if not record[COMPLETION]:
        raise InstructionError(f"{where}: completion is empty, and so nothing to learn; take the line out")
    return [Turn(record[PROMPT], learned=False), Turn(record[COMPLETION], learned=True)]


def _messages(where: str, messages: Any, special: tuple[str, ...]) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise InstructionError(f"{where}: messages={messages!r:.60}: expected a list of objects")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InstructionError(f"{where}: messages[{number}]={message!r:.60}: expected an object")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise InstructionError(f"{where}: messages[{number}].{key}={message.get(key)!r:.60}: expected a text")
            check_text(where, key, message[key])
        named = next((name for name in special if name in message["content"]), None)
        if named:
            raise InstructionError(
                f"{where}: messages[{number}].content holds {named!r}, which the tokenizer reads as the end of a turn "
                "or the like; write it otherwise"
            )
    return messages
