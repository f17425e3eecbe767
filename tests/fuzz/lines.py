"""JSONL: lines of text, and lines of instructions and conversations."""

from andon.core.data import corpus, instruction_records
from andon.core.data.chat import ChatError
from andon.core.data.corpus import CorpusError, documents, find_sources
from andon.core.data.instruction_records import InstructionError, has_instructions, read_instructions
from tests.fuzz.files import written

REFUSALS = (CorpusError, InstructionError, ChatError)
PARSER = {
    instruction_records: (
        "has_instructions",
        "read_instructions",
        "_record",
        "_another_shape",
        "_prompt_and_completion",
        "_part",
        "_from_sharegpt",
        "_message",
        "_check_weight",
        "_texts",
        "_tools",
        "_variables",
    ),
    corpus: (
        "documents",
        "records",
        "check_text",
        "_inspect",
        "_jsonl_documents",
        "_parse_json",
        "is_jsonl",
        "_text_document",
        "_piece_names",
        "_split_text",
        "_not_text",
        "_check_unchanged",
    ),
}
SPECIAL = ("<|im_end|>",)


def one(data: bytes) -> None:
    """As data.paths would name it; a first byte `#` makes it a text file."""
    name = "text.txt" if data[:1] == b"#" else "lines.jsonl"
    sources = find_sources([str(written(name, data))])
    if has_instructions(sources):
        list(read_instructions(sources[0], SPECIAL))
    else:
        list(documents(sources, "text"))
