"""Chat templates: jinja programs that come with a tokenizer and cannot be trusted.

They are rendered in jinja2's immutable sandbox, which keeps them from the interpreter, and in a separate process with
limits on processor time, memory and output: a sandbox alone stops neither an endless loop nor a string that doubles
forty times. This file is also the script of that process, so it imports nothing of this package.
"""

import json
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

Message = dict[str, Any]


class ChatError(ValueError):
    """A chat template, or a conversation, that cannot be used; the message names the file and the next step."""


class ChatTemplate(NamedTuple):
    """A template's text, the special tokens that it may name, and the file it comes from."""

    source: str
    tokens: dict[str, str]
    file: str


class Turn(NamedTuple):
    """A part of a sample's text, and whether the loss counts it (`learned`) or it is context only."""

    text: str
    learned: bool


def render_turns(template: ChatTemplate, conversations: Sequence[tuple[str, list[Message]]]) -> list[list[Turn]]:
    """Each conversation's text as the model will see it: the loss counts the assistant's messages, the rest is context.

    `conversations` are pairs of a name for errors and messages with `role` and `content`. An answer is what a
    rendering adds to that of the messages before it with the assistant's header; text after the last is left out.

    Raises:
        ChatError: a template that is not valid jinja, raises, does what the sandbox forbids, takes too long or writes
            too much, or that changes earlier turns once others follow; a conversation without an answer.
    """
    found: list[list[Turn]] = []
    for begin in range(0, len(conversations), CONVERSATIONS_PER_PROCESS):
        found += _render_batch(template, conversations[begin : begin + CONVERSATIONS_PER_PROCESS])
    return found


def render(
    template: ChatTemplate, requests: Sequence[tuple[str, list[Message], bool]], seconds: int = CPU_SECONDS
) -> list[str]:
    """The text of each request: a name for errors, messages, and whether the assistant's header is to follow them.

    Raises:
        ChatError: as `render_turns`.
    """
    content = {"template": template.source, "tokens": template.tokens, "requests": [rest for _, *rest in requests]}
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
        where = "" if reply["request"] is None else f", for {requests[reply['request']][0]}"
        _refuse(template, f"{reply['error']}{where}")
    return reply["texts"]


def _render_batch(template: ChatTemplate, conversations: Sequence[tuple[str, list[Message]]]) -> list[list[Turn]]:
    requests: list[tuple[str, list[Message], bool]] = []
    answers: list[list[int]] = []
    for where, messages in conversations:
        answers.append([index for index, message in enumerate(messages) if message["role"] == "assistant"])
        if not answers[-1]:
            raise ChatError(
                f"{where}: holds no message with the role 'assistant', so there is nothing to learn; add one"
            )
        for index in answers[-1]:
            requests += [(where, messages[:index], True), (where, messages[: index + 1], False)]
    texts = iter(render(template, requests))
    found: list[list[Turn]] = []
    for (where, _), indices in zip(conversations, answers, strict=True):
        done, found = "", [*found, []]
        for _ in indices:
            before, after = next(texts), next(texts)
            if not before.startswith(done) or not after.startswith(before):
                _refuse(template, f"changes a turn once another follows, for {where}")
            found[-1] += [Turn(before[len(done) :], learned=False), Turn(after[len(before) :], learned=True)]
            done = after
    return found


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
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    texts: list[str] = []
    compiled = False
    try:
        template = environment.from_string(content["template"], globals={"raise_exception": _raise})
        compiled = True
        for messages, header in content["requests"]:
            variables = {"messages": messages, "add_generation_prompt": header, "tools": None, "documents": None}
            texts.append(_render_bounded(template, content["tokens"] | variables))
    except Exception as error:  # noqa: BLE001 - a template may raise anything
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        problem = f"fails with {type(error).__name__}: {line}{str(error)[:200]}"
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


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _limit_process(seconds: int) -> None:
    for what, limit in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, MEMORY_BYTES)):
        _, most = resource.getrlimit(what)
        resource.setrlimit(what, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


if __name__ == "__main__":
    _limit_process(int(sys.argv[1]))
    json.dump(render_requests(json.load(sys.stdin)), sys.stdout)
