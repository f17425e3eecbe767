"""Load a chat template: from a Hugging Face directory, a GGUF file, or a file of its own."""

import json
from pathlib import Path
from typing import Any

from andon.core.data.chat import ChatError, ChatTemplate
from andon.core.formats.gguf_header import read_header

TEMPLATE, FIELDS = "chat_template.jinja", "tokenizer_config.json"  # in a Hugging Face directory
GGUF_TEMPLATE = "tokenizer.chat_template"  # gguf.md
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")  # what templates may write by name


def load_template(path: Path) -> ChatTemplate | None:
    """The template of a Hugging Face directory, a GGUF file or a `.jinja` file; None where a model has none.

    Raises:
        ChatError: a file that cannot be read, or whose template is not text.
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
        raise ChatError(f"{path / FIELDS}: chat_template is not text; name a .jinja file with --chat-template")
    return ChatTemplate(source, tokens, str(path / FIELDS))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ChatError(f"{path}: cannot be read ({error.strerror}); name a chat template's file") from error
    except UnicodeDecodeError as error:
        raise ChatError(f"{path}: is not text; name a chat template's file") from error


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ChatError):
            raise
        raise ChatError(f"{path}: is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(fields, dict):
        raise ChatError(f"{path}: is not a JSON object; fetch the file again")
    return fields


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode the text: JSON can hold half of a surrogate pair."""
    return text == text.encode(errors="replace").decode()


def _token(value: Any) -> str | None:
    """A special token's text: a string, or an object's `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _from_gguf(path: Path) -> ChatTemplate | None:
    fields = read_header(path).fields
    source = fields.get(GGUF_TEMPLATE)
    if source is None:
        return None
    if not isinstance(source, str):
        raise ChatError(f"{path}: {GGUF_TEMPLATE} is not text; name a .jinja file with --chat-template")
    names = fields.get("tokenizer.ggml.tokens")
    tokens = names if isinstance(names, list) else []
    ids = {name: fields.get(f"tokenizer.ggml.{name[:3]}_token_id") for name in NAMED_TOKENS[:2]}
    known = {name: tokens[place] for name, place in ids.items() if type(place) is int and 0 <= place < len(tokens)}
    return ChatTemplate(source, {name: text for name, text in known.items() if isinstance(text, str)}, str(path))
