"""Chat templates: jinja programs that come with a tokenizer and cannot be trusted.

They are rendered in jinja2's immutable sandbox, which keeps them from the interpreter, and in a separate process with
limits on processor time, memory and output: a sandbox alone stops neither an endless loop nor a string that doubles
forty times. This file is also the script of that process, so it imports nothing of this package.
"""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS, MEMORY_BYTES = 10, 1 << 30  # of the process that renders
MAX_CHARACTERS = 1 << 22  # characters of one rendering
CONVERSATIONS_PER_PROCESS = 500  # conversations rendered by one process

REASONING = ("reasoning_content", "thinking", "reasoning")  # a message's, by its newest name first

Message = dict[str, Any]


class ChatError(ValueError):
    """A chat template, or a conversation, that cannot be used; the message names the file and the next step."""


class ChatTemplate(NamedTuple):
    """A template's text, the special tokens that it may name, and the file it comes from.

    `tool_use` is the text of the one for conversations with tools, where the model has one of its own for them.
    """

    source: str
    tokens: dict[str, str]
    file: str
    tool_use: str = ""


class Conversation(NamedTuple):
    """A name for errors, messages with `role` and `content`, the tools on offer, and what else the template is told.

    An assistant's message whose `weight` is 0 is context.
    """

    where: str
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    variables: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Request(NamedTuple):
    """A text to render: of the first `count` messages, and whether the assistant's header is to follow them."""

    conversation: Conversation
    count: int
    header: bool


class Turn(NamedTuple):
    """A part of a sample's text, and whether the loss counts it (`learned`) or it is context only."""

    text: str
    learned: bool


def render_turns(template: ChatTemplate, conversations: Sequence[Conversation]) -> list[list[Turn]]:
    """Each conversation's text as the model will see it: the loss counts the assistant's messages, the rest is context.

    An answer is what a rendering adds to that of the messages before it with the assistant's header; text after the
    last one that counts is left out.

    Raises:
        ChatError: a template that is not valid jinja, raises, does what the sandbox forbids, takes too long or writes
            too much, or that changes earlier turns once others follow; a conversation without an answer.
    """
    found: list[list[Turn]] = []
    for begin in range(0, len(conversations), CONVERSATIONS_PER_PROCESS):
        found += _render_batch(template, conversations[begin : begin + CONVERSATIONS_PER_PROCESS])
    return found


def render(template: ChatTemplate, requests: Sequence[Request], seconds: int = CPU_SECONDS) -> list[str]:
    """The text of each request.

    Raises:
        ChatError: as `render_turns`.
    """
    for conversation in {id(request.conversation): request.conversation for request in requests}.values():
        _check_read(template, conversation)
    sources = [template.tool_use or template.source, template.source]
    content = {"templates": sources, "tokens": template.tokens, "requests": [_plain(request) for request in requests]}
    command = [sys.executable, "-I", __file__, str(seconds)]
    try:
        text = json.dumps(content).encode()
        done = subprocess.run(command, input=text, check=False, capture_output=True, timeout=9 * seconds)
    except subprocess.TimeoutExpired:
        _refuse(template, f"did not end within {9 * seconds} s")
    if done.returncode:
        _refuse(template, f"took more than {seconds} s or {MEMORY_BYTES >> 20} MiB, and was stopped")
    reply = json.loads(done.stdout)
    if "error" in reply:
        where = "" if reply["request"] is None else f", for {requests[reply['request']].conversation.where}"
        _refuse(template, f"{reply['error']}{where}")
    return reply["texts"]


def _render_batch(template: ChatTemplate, conversations: Sequence[Conversation]) -> list[list[Turn]]:
    answers = [_answers(conversation) for conversation in conversations]
    texts = iter(
        render(
            template,
            [
                request
                for conversation, indices in zip(conversations, answers, strict=True)
                for index in indices
                for request in (Request(conversation, index, header=True), Request(conversation, index + 1, False))
            ],
        )
    )
    found: list[list[Turn]] = []
    for conversation, indices in zip(conversations, answers, strict=True):
        done, found = "", [*found, []]
        for _ in indices:
            before, after = next(texts), next(texts)
            if not before.startswith(done) or not after.startswith(before):
                _refuse(template, f"changes a turn once another follows, for {conversation.where}")
            found[-1] += [Turn(before[len(done) :], learned=False), Turn(after[len(before) :], learned=True)]
            done = after
    return found


def _answers(conversation: Conversation) -> list[int]:
    """Where the messages stand from which to learn."""
    said = [index for index, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    found = [index for index in said if conversation.messages[index].get("weight") != 0]
    if not found:
        what = "only messages of weight 0" if said else "no message"
        raise ChatError(
            f"{conversation.where}: holds {what} with the role 'assistant', so there is nothing to learn; add one"
        )
    return found


def _check_read(template: ChatTemplate, conversation: Conversation) -> None:
    """A template that never names the tools would leave them out without an error."""
    source = template.tool_use if conversation.tools and template.tool_use else template.source
    calls = any(message.get("tool_calls") for message in conversation.messages)
    for name, given in (("tools", conversation.tools), ("tool_calls", calls)):
        if given and not re.search(rf"\b{name}\b", source):
            _refuse(template, f"does not read {name!r}, which {conversation.where} gives")


def _plain(request: Request) -> list[Any]:
    """A request as the process reads it."""
    conversation, count, header = request
    messages = [_message(message) for message in conversation.messages[:count]]
    return [messages, header, conversation.tools, conversation.variables]


def _message(message: Message) -> Message:
    """As transformers hands it on: no key without a value, and reasoning by the name that templates read."""
    told = {key: value for key, value in message.items() if value is not None and key != "weight"}
    reasoning = next((told[key] for key in REASONING if key in told), None)
    return told if reasoning is None else {"thinking": reasoning, **told, "reasoning_content": reasoning}


def _refuse(template: ChatTemplate, what: str) -> NoReturn:
    raise ChatError(f"{template.file}: the chat template {what}; name another with --chat-template FILE")


class Generation(Extension):
    """`{% generation %}`, with which some templates mark the assistant's text, has no effect on it."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[Node]:
        """The content between the marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_requests(content: dict[str, Any]) -> dict[str, Any]:
    """The texts of all requests, or the first error and the index of its request."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    # As in transformers, without `strftime_now`: training data must not depend on the day.
    environment.filters["tojson"] = _tojson
    texts: list[str] = []
    compiled = False
    try:
        given = {"raise_exception": _raise}
        for_tools, plain = (environment.from_string(source, globals=given) for source in content["templates"])
        compiled = True
        for messages, header, tools, others in content["requests"]:
            variables = {"messages": messages, "add_generation_prompt": header, "tools": tools, "documents": None}
            texts.append(_render_bounded(for_tools if tools else plain, content["tokens"] | others | variables))
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        problem = f"fails with {type(error).__name__}: {line}{str(error)[:200]}"
        if isinstance(error, jinja2.UndefinedError) and "'strftime_now'" in str(error):
            problem = (
                "asks for today's date (strftime_now), which is not given: what is learned would depend on the day"
            )
        return {"error": problem, "request": len(texts) if compiled else None}
    return {"texts": texts}


def _render_bounded(template: jinja2.Template, variables: dict[str, Any]) -> str:
    parts: list[str] = []
    size = 0
    for part in template.generate(variables):
        parts.append(part)
        size += len(part)
        if size > MAX_CHARACTERS:
            raise OverflowError(f"more than {MAX_CHARACTERS:,} characters for one conversation")
    text = "".join(parts)
    if text != text.encode(errors="replace").decode():
        raise ValueError("writes half of a surrogate pair")
    return text


def _tojson(value: Any, *, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _limit_process(seconds: int) -> None:
    for what, limit in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, MEMORY_BYTES)):
        _, most = resource.getrlimit(what)
        resource.setrlimit(what, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


if __name__ == "__main__":
    _limit_process(int(sys.argv[1]))
    json.dump(render_requests(json.load(sys.stdin)), sys.stdout)
