"""GGUF's metadata and tensor table, the model's shape in it, its tokenizer and its chat template."""

from andon.core.data.chat import ChatError
from andon.core.formats import chat_template, gguf_header, gguf_tokenizer
from andon.core.formats.chat_template import load_template
from andon.core.formats.gguf_header import GgufError, huggingface_name, model_config, read_header
from andon.core.formats.gguf_tokenizer import read_tokenizer
from andon.core.formats.huggingface_config import InterchangeError
from tests.fuzz.files import written

REFUSALS = (InterchangeError, GgufError, ChatError)
PARSER = {
    gguf_header: (
        "read_header",
        "parse_header",
        "model_config",
        "huggingface_name",
        "_value",
        "_tensor",
        "Cursor.take",
        "Cursor.numbers",
        "Cursor.text",
    ),
    gguf_tokenizer: ("read_tokenizer", "_list_of"),
    chat_template: ("_from_gguf", "_gguf_names"),
}


def one(data: bytes) -> None:
    """A file, read as far as it goes without its weights."""
    path = written("model.gguf", data)
    header = read_header(path)
    load_template(path)
    read_tokenizer(header.fields)
    model_config(path, header)
    for name in header.shapes:
        huggingface_name(path, name)
