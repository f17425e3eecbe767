"""The small files that go into a Hugging Face directory beside the weights: tokenizer, its fields, chat templates."""

import json
from pathlib import Path

from tokenizers import Tokenizer

from andon.core.data.chat import ChatTemplate
from andon.core.data.tokenizer import EOS_NAMES
from andon.core.files.manifest import TOKENIZER
from andon.core.formats.chat_template import ADDITIONAL, FIELDS, TEMPLATE, TOOL_USE
from andon.core.formats.marks import Marks


def write_small_files(
    folder: Path, tokenizer: Tokenizer | None, template: ChatTemplate | None, marks: Marks | None
) -> None:
    """Write the files of `marks` as they are, the tokenizer's where it has none, and a template before its own."""
    files = marks.files if marks else {}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    if tokenizer is not None:
        _write_tokenizer(folder, tokenizer, marks.names if marks else {}, files)
    carried = marks.template if marks and files else None
    if template and not (carried and _same(template, carried)):
        _write_template(folder, template)


def eos_token(tokenizer: Tokenizer) -> tuple[str | None, int | None]:
    """The end-of-sequence token and its id: the first of the usual names that the tokenizer has."""
    ids = {name: tokenizer.token_to_id(name) for name in EOS_NAMES}
    return next(((name, known) for name, known in ids.items() if known is not None), (None, None))


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, names: dict[str, str], files: dict[str, bytes]) -> None:
    if TOKENIZER not in files:
        tokenizer.save(str(folder / TOKENIZER))
    if FIELDS not in files:
        eos, _ = eos_token(tokenizer)
        fields = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        named = ({"eos_token": eos} if eos else {}) | names
        (folder / FIELDS).write_text(json.dumps(fields | named, indent=2) + "\n", encoding="utf-8")


def _same(one: ChatTemplate, other: ChatTemplate) -> bool:
    return (one.source, one.tool_use) == (other.source, other.tool_use)


def _write_template(folder: Path, template: ChatTemplate) -> None:
    """The template where it is looked for first, and no other of the source's beside it."""
    for file in (folder / ADDITIONAL).glob("*.jinja"):
        file.unlink()
    (folder / TEMPLATE).write_text(template.source, encoding="utf-8")
    if template.tool_use:
        (folder / ADDITIONAL).mkdir(exist_ok=True)
        (folder / ADDITIONAL / f"{TOOL_USE}.jinja").write_text(template.tool_use, encoding="utf-8")
