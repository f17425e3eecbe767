"""JSONL: lines of text, and lines of instructions and conversations."""

from andon.core.data import corpus, sample_lines
from andon.core.data.chat import ChatError
from andon.core.data.corpus import CorpusError, documents, find_sources
from andon.core.data.sample_lines import InstructionError, has_instructions, read_lines
from tests.fuzz.files import written

REFUSALS = (CorpusError, InstructionError, ChatError)
PARSER = {
    sample_lines: ("has_instructions", "read_lines", "_pair", "_messages"),
    corpus: (
        "documents",
        "records",
        "check_text",
        "_inspect",
        "_lines",
        "_parsed",
        "is_jsonl",
        "_file",
        "_names",
        "_cut",
        "_no_text",
        "_check_unchanged",
    ),
}
SPECIAL = ("<|im_end|>",)


def one(data: bytes) -> None:
    """As data.paths would name it; a first byte `#` makes it a text file."""
    name = "text.txt" if data[:1] == b"#" else "lines.jsonl"
    sources = find_sources([str(written(name, data))])
    if has_instructions(sources):
        list(read_lines(sources[0], SPECIAL))
    else:
        list(documents(sources, "text"))
