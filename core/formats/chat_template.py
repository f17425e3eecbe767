"""Load a chat template: from a Hugging Face directory, a GGUF file, or a file of its own."""

from pathlib import Path
from typing import Any

from andon.core.data.chat import ChatError, ChatTemplate
from andon.core.formats.gguf_header import read_header
from andon.reading import ReadError, parse_json, read_text

# In a Hugging Face directory.
TEMPLATE, FIELDS, MAP, ADDITIONAL = (
    "chat_template.jinja",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "additional_chat_templates",
)
TOOL_USE = "tool_use"  # of several templates, the one for conversations with tools
GGUF_TEMPLATE = "tokenizer.chat_template"  # gguf.md
# In GGUF's metadata, by the name that templates write.
GGUF_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
# What transformers' LlamaTokenizer fills in.
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def load_template(path: Path) -> ChatTemplate | None:
    """The template of a Hugging Face directory, a GGUF file or a `.jinja` file; None where a model has none.

    Raises:
        ChatError: a file that cannot be read, or whose template is not text.
    """
    if path.suffix == ".gguf":
        return _from_gguf(path)
    if not path.is_dir():
        return ChatTemplate(_read(path), {}, str(path))
    named = _named_templates(path)
    file = path / TEMPLATE if (path / TEMPLATE).exists() else path / FIELDS
    for source in named.values():
        if not isinstance(source, str) or not _is_utf8(source):
            raise ChatError(f"{file}: chat_template is not text; name a .jinja file with --chat-template")
    if named and "default" not in named:
        raise ChatError(
            f"{file}: chat_template has no default among {', '.join(map(str, named))}; name one with --chat-template"
        )
    return ChatTemplate(named["default"], special_names(path), str(file), named.get(TOOL_USE, "")) if named else None


def special_names(path: Path) -> dict[str, str]:
    """The special tokens that a model's files name, such as `eos_token`, which its template may write.

    As transformers does: special_tokens_map.json goes before tokenizer_config.json unless the latter has
    `added_tokens_decoder`, and LlamaTokenizer has names of its own for those that are left out.

    Raises:
        ChatError: a file that cannot be read.
    """
    if path.suffix == ".gguf":
        return _gguf_names(path)
    fields = _fields(path / FIELDS) if (path / FIELDS).exists() else {}
    if (path / MAP).exists() and "added_tokens_decoder" not in fields:
        fields |= _fields(path / MAP)
    kind = fields.get("tokenizer_class")
    defaults = LLAMA_TOKENS if kind in ("LlamaTokenizer", "LlamaTokenizerFast") else {}
    told = {key: text for key, value in fields.items() if key.endswith("_token") and (text := _token(value))}
    return {key: text for key, text in defaults.items() if key not in fields} | told


def _named_templates(path: Path) -> dict[Any, Any]:
    """Chat templates by name, of tokenizer_config.json and of the folder for more of them."""
    files = {file.stem: _read(file) for file in sorted((path / ADDITIONAL).glob("*.jinja"))}
    if (path / TEMPLATE).exists():
        files["default"] = _read(path / TEMPLATE)
    fields = _fields(path / FIELDS) if (path / FIELDS).exists() else {}
    source = fields.get("chat_template")
    listed = source if isinstance(source, list) else [] if source is None else [{"name": "default", "template": source}]
    named = {entry.get("name"): entry.get("template") for entry in listed if isinstance(entry, dict)}
    return files or named  # where there are files, transformers reads no entry


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise ChatError(f"{path}: cannot be read ({error.strerror}); name a chat template's file") from error
    except ReadError as error:
        raise ChatError(f"{path}: {error}; name a chat template's file") from error


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields = parse_json(_read(path))
    except ReadError as error:
        raise ChatError(f"{path}: {error}; fetch the file again") from error
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
    return ChatTemplate(source, _gguf_names(path), str(path))


def _gguf_names(path: Path) -> dict[str, str]:
    fields = read_header(path).fields
    names = fields.get("tokenizer.ggml.tokens")
    tokens = names if isinstance(names, list) else []
    ids = {name: fields.get(f"tokenizer.ggml.{where}_token_id") for name, where in GGUF_TOKENS.items()}
    known = {name: tokens[place] for name, place in ids.items() if type(place) is int and 0 <= place < len(tokens)}
    return {name: text for name, text in known.items() if isinstance(text, str)}
