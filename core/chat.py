"""Chat templates: jinja programs that come with a tokeniser and are nobody's to trust.

They are rendered in jinja2's immutable sandbox, which keeps them from the interpreter, and in a process of its own that
may use so much processor time, memory and output and no more: a sandbox alone cannot stop a loop, or a string that
doubles forty times. This file is that process too, so it imports nothing of this package.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE, FIELDS = "chat_template.jinja", "tokenizer_config.json"  # in a Hugging Face directory
GGUF_TEMPLATE = "tokenizer.chat_template"  # gguf.md
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")  # what templates may write by name
SECONDS, MEMORY_BYTES = 10, 1 << 30  # of the process that renders
LONGEST = 1 << 22  # characters of one rendering
TOGETHER = 500  # conversations rendered by one process

Message = dict[str, Any]


class ChatError(ValueError):
    """A chat template, or a conversation, that cannot be used; the message names the file and the next step."""


class ChatTemplate(NamedTuple):
    """A template's text, the special tokens that it may name, and the file it comes from."""

    source: str
    tokens: dict[str, str]
    file: str


class Turn(NamedTuple):
    """A stretch of a sample's text, and whether it is to be learned or only read."""

    text: str
    learned: bool


def load_template(path: Path) -> ChatTemplate | None:
    """The template of a Hugging Face directory, a GGUF file or a `.jinja` file; None where a model has none.

    Raises:
        ChatError: a file that cannot be read, or that holds something else under the template's name.
    """
    if path.suffix == ".gguf":
        return _from_gguf(path)
    if not path.is_dir():
        return ChatTemplate(_read(path), {}, str(path))
    fields = _fields(path / FIELDS) if (path / FIELDS).exists() else {}
    tokens = {name: token for name in NAMED_TOKENS if (token := _token(fields.get(name)))}
    if (path / TEMPLATE).exists():
        return ChatTemplate(_read(path / TEMPLATE), tokens, str(path / TEMPLATE))
    source = fields.get("chat_template")
    if isinstance(source, list):  # several by name; the one for chat without tools is called default
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if source is None:
        return None
    if not isinstance(source, str) or not _is_utf8(source):
        raise ChatError(f"{path / FIELDS}: chat_template is no text; name a .jinja file with --chat-template")
    return ChatTemplate(source, tokens, str(path / FIELDS))


def turns(template: ChatTemplate, conversations: Sequence[tuple[str, list[Message]]]) -> list[list[Turn]]:
    """Each conversation's text as the model will see it: what the assistant says is to be learned, the rest is read.

    `conversations` are pairs of a name for errors and messages with `role` and `content`. An answer is what a rendering
    has more than that of the messages before it, with the assistant's header at its end; what follows the last answer
    is left out.

    Raises:
        ChatError: a template that is no jinja, refuses, does what the sandbox forbids, takes too long or writes too
            much, or that writes earlier turns otherwise once others follow; a conversation without an answer.
    """
    found: list[list[Turn]] = []
    for begin in range(0, len(conversations), TOGETHER):
        found += _together(template, conversations[begin : begin + TOGETHER])
    return found


def render(
    template: ChatTemplate, requests: Sequence[tuple[str, list[Message], bool]], seconds: int = SECONDS
) -> list[str]:
    """The text of each request: a name for errors, messages, and whether the assistant's header is to follow them.

    Raises:
        ChatError: as `turns`.
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
    answer = json.loads(done.stdout)
    if "error" in answer:
        where = "" if answer["request"] is None else f", for {requests[answer['request']][0]}"
        _refuse(template, f"{answer['error']}{where}")
    return answer["texts"]


def _together(template: ChatTemplate, conversations: Sequence[tuple[str, list[Message]]]) -> list[list[Turn]]:
    requests: list[tuple[str, list[Message], bool]] = []
    answers: list[list[int]] = []
    for where, messages in conversations:
        answers.append([index for index, message in enumerate(messages) if message["role"] == "assistant"])
        if not answers[-1]:
            raise ChatError(f"{where}: holds no message with the role 'assistant', and so nothing to learn; add one")
        for index in answers[-1]:
            requests += [(where, messages[:index], True), (where, messages[: index + 1], False)]
    texts = iter(render(template, requests))
    found: list[list[Turn]] = []
    for (where, _), indices in zip(conversations, answers, strict=True):
        done, found = "", [*found, []]
        for _ in indices:
            before, after = next(texts), next(texts)
            if not before.startswith(done) or not after.startswith(before):
                _refuse(template, f"writes a turn otherwise once another follows, for {where}")
            found[-1] += [Turn(before[len(done) :], learned=False), Turn(after[len(before) :], learned=True)]
            done = after
    return found


def _refuse(template: ChatTemplate, what: str) -> NoReturn:
    raise ChatError(f"{template.file}: the chat template {what}; name another with --chat-template FILE")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatError(f"{path}: cannot be read ({error.strerror}); name a chat template's file") from error
    except UnicodeDecodeError as error:
        raise ChatError(f"{path}: is no text; name a chat template's file") from error


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ChatError):
            raise
        raise ChatError(f"{path}: is no JSON ({error}); fetch the file again") from error
    if not isinstance(fields, dict):
        raise ChatError(f"{path}: is no JSON object; fetch the file again")
    return fields


def _is_utf8(text: str) -> bool:
    """JSON can spell half a character, UTF-8 cannot."""
    return text == text.encode(errors="replace").decode()


def _token(value: Any) -> str | None:
    """A special token's text, which stands there itself or as an object's `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _from_gguf(path: Path) -> ChatTemplate | None:
    from .gguf_header import read_header  # late: this file runs alone, too

    fields = read_header(path).fields
    source = fields.get(GGUF_TEMPLATE)
    if source is None:
        return None
    if not isinstance(source, str):
        raise ChatError(f"{path}: {GGUF_TEMPLATE} is no text; name a .jinja file with --chat-template")
    names = fields.get("tokenizer.ggml.tokens")
    tokens = names if isinstance(names, list) else []
    ids = {name: fields.get(f"tokenizer.ggml.{name[:3]}_token_id") for name in NAMED_TOKENS[:2]}
    known = {name: tokens[place] for name, place in ids.items() if type(place) is int and 0 <= place < len(tokens)}
    return ChatTemplate(source, {name: text for name, text in known.items() if isinstance(text, str)}, str(path))


# ------------------------------------------------------------------------------------------------ the other process


class Generation(Extension):
    """`{% generation %}`, by which some templates mark the assistant's words, does nothing else."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[Node]:
        """What stands between the marks."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def answer(content: dict[str, Any]) -> dict[str, Any]:
    """The texts of all requests, or the first error and the number of the request that it belongs to."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    # As transformers, but for `strftime_now`: what is learned must not depend on the day.
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    texts: list[str] = []
    compiled = False
    try:
        template = environment.from_string(content["template"], globals={"raise_exception": _raise})
        compiled = True
        for messages, header in content["requests"]:
            variables = {"messages": messages, "add_generation_prompt": header, "tools": None, "documents": None}
            texts.append(_bounded(template, content["tokens"] | variables))
    except Exception as error:  # noqa: BLE001 - a foreign program may raise whatever it can
        line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
        said = f"fails with {type(error).__name__}: {line}{str(error)[:200]}"
        return {"error": said, "request": len(texts) if compiled else None}
    return {"texts": texts}


def _bounded(template: jinja2.Template, variables: dict[str, Any]) -> str:
    parts: list[str] = []
    size = 0
    for part in template.generate(variables):
        parts.append(part)
        size += len(part)
        if size > LONGEST:
            raise OverflowError(f"more than {LONGEST:,} characters for one conversation")
    text = "".join(parts)
    if not _is_utf8(text):
        raise ValueError("writes half of a surrogate pair")
    return text


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _limit(seconds: int) -> None:
    for what, limit in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, MEMORY_BYTES)):
        _, most = resource.getrlimit(what)
        resource.setrlimit(what, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


if __name__ == "__main__":
    _limit(int(sys.argv[1]))
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
