"""What a model's files say beside its weights: where a text begins and ends, what the chat template may name.

In a Hugging Face directory: `config.json`, `generation_config.json`, `tokenizer_config.json`, `special_tokens_map.json`
and the chat templates, read as transformers 5 reads them. In a GGUF file: the metadata.
"""

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from andon.core.data.chat import ChatTemplate
from andon.core.data.tokenizer import TextMarks, TokenizerError, text_marks
from andon.core.files.manifest import CONFIG, TOKENIZER
from andon.core.formats.chat_template import ADDITIONAL, FIELDS, MAP, TEMPLATE, load_template, special_names
from andon.core.formats.gguf_header import read_header
from andon.core.formats.huggingface_config import InterchangeError, read_json
from andon.reading import ReadError, read_bytes

GENERATION = "generation_config.json"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# Small files that go with the weights as they are; other libraries read more in them than this one.
CARRIED = (GENERATION, TOKENIZER, FIELDS, MAP, "added_tokens.json", "tokenizer.model", TEMPLATE)
TEXT_FILES = (FIELDS, MAP, TEMPLATE, ADDITIONAL)  # those that name tokens and write conversations
GGUF_IDS = {
    name: f"tokenizer.ggml.{where}_token_id" for name, where in zip(IDS, ("bos", "eos", "padding"), strict=True)
}


class Marks(NamedTuple):
    """Special tokens by name and by `config.json`'s ids, the ids that end generation, template, and files to carry."""

    names: dict[str, str]
    ids: dict[str, Any]
    stop: tuple[int, ...]
    template: ChatTemplate | None
    generation: dict[str, Any]
    files: dict[str, bytes]


def load_marks(path: Path) -> Marks:
    """The marks of a checkpoint, a Hugging Face directory or a GGUF file.

    Raises:
        InterchangeError, ChatError: a file that cannot be read, by name, or an id that is none.
    """
    if path.suffix == ".gguf":
        return _of_gguf(path)
    config = read_json(path / CONFIG) if (path / CONFIG).exists() else {}
    generation = read_json(path / GENERATION) if (path / GENERATION).exists() else {}
    ids = {name: config[name] for name in IDS if config.get(name) is not None}
    said = path / GENERATION if (path / GENERATION).exists() else path / CONFIG  # transformers reads the former alone
    stop = _stop(said, generation if said.name == GENERATION else config)
    _stop(path / CONFIG, config)
    files = {name: _bytes(path / name) for name in CARRIED if (path / name).exists()}
    more = sorted((path / ADDITIONAL).glob("*.jinja"))
    files |= {f"{ADDITIONAL}/{file.name}": _bytes(file) for file in more}
    return Marks(special_names(path), ids, stop, load_template(path), generation, files)


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except (OSError, ReadError) as error:
        raise InterchangeError(f"{path}: cannot be read ({error}); fetch the file again") from error


def marks_beside(folder: Path, base: Marks) -> Marks:
    """A base's marks, but for the tokenizer's files that lie beside an adapter, which go before the base's.

    Raises:
        TokenizerError: the adapter's tokenizer has other ids than the base's.
    """
    own = load_marks(folder)
    if FIELDS not in own.files:
        return base
    ours, theirs = (each.files.get(TOKENIZER) for each in (own, base))
    if ours and theirs and ours != theirs:
        vocabularies = [Tokenizer.from_buffer(each).get_vocab(with_added_tokens=True) for each in (ours, theirs)]
        if vocabularies[0] != vocabularies[1]:
            raise TokenizerError(
                f"{folder / TOKENIZER}: has other ids than the base's; merge with peft, which resizes the embedding"
            )
    kept = {name: content for name, content in base.files.items() if not name.startswith(TEXT_FILES)}
    return base._replace(names=own.names, template=own.template, files=kept | own.files)


def marks_of_text(tokenizer: Tokenizer, marks: Marks, path: Path) -> TextMarks:
    """What begins and ends a text of this model: the tokenizer's own end, else the first that ends generation.

    Raises:
        TokenizerError: the end has no id in the tokenizer, or there is none.
    """
    return text_marks(tokenizer, str(path), end_id(tokenizer, marks, path))


def end_id(tokenizer: Tokenizer, marks: Marks, path: Path) -> int | None:
    """The id that ends a text; None where no file says one.

    Raises:
        TokenizerError: it is not among the tokenizer's.
    """
    named = marks.names.get("eos_token")
    if named is not None:
        found = tokenizer.token_to_id(named)
        if found is None:
            raise TokenizerError(
                f"{path / FIELDS}: eos_token={named!r} has no id in {TOKENIZER}; fetch both files again, or name a "
                "token that it has"
            )
        return found
    for token in marks.stop:
        if tokenizer.id_to_token(token) is None:
            raise TokenizerError(f"{path}: eos_token_id={token} is no id of {TOKENIZER}; fetch the files again")
    return marks.stop[0] if marks.stop else None


def _stop(path: Path, fields: dict[str, Any]) -> tuple[int, ...]:
    """The ids that end generation: one, or a list."""
    value = fields.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(token) is not int or token < 0 for token in ids):
        raise InterchangeError(f"{path}: eos_token_id={value!r}; expected an id or a list of ids")
    return tuple(ids)


def _of_gguf(path: Path) -> Marks:
    fields = read_header(path).fields
    ids = {name: fields[key] for name, key in GGUF_IDS.items() if type(fields.get(key)) is int}
    more = [fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    stop = tuple(dict.fromkeys(token for token in more if type(token) is int))
    if len(stop) > 1:
        ids["eos_token_id"] = list(stop)
    template = load_template(path)
    return Marks(special_names(path), ids, stop, template, {}, {})
