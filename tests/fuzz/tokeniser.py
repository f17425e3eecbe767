"""A tokeniser's settings and its chat template, as this code reads and renders them."""

import re

from andon.core.data import chat, tokenizer
from andon.core.data.chat import ChatError, answer
from andon.core.data.tokenizer import TokeniserError, check_vocabulary, end_of_document, load_tokeniser, special_names
from andon.core.formats import chat_template
from andon.core.formats.chat_template import load_template
from tests.fuzz.files import FOLDER, parts, present

REFUSALS = (ChatError, TokeniserError)
PARSER = {
    chat_template: ("load_template", "_read", "_fields", "_is_utf8", "_token"),
    chat: ("answer", "_bounded", "Generation.parse", "_raise"),
    tokenizer: ("load_tokeniser", "id_count", "check_vocabulary", "end_of_document", "special_names"),
}
MESSAGES = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two"}]
# What may take a template hours, or all memory: that is the sandbox's process to stop.
UNBOUNDED = re.compile(r"for|\*|range|macro|just|center|zfill|expandtabs|indent|%\s*\d")


def one(data: bytes) -> None:
    """A directory with tokenizer_config.json, chat_template.jinja and tokenizer.json, where each is not empty."""
    for name, content in zip(
        ("tokenizer_config.json", "chat_template.jinja", "tokenizer.json"), parts(data, 3), strict=True
    ):
        present(name, content)
    template, alone = load_template(FOLDER), FOLDER / "chat_template.jinja"
    if alone.exists():
        load_template(alone)
    if template is not None and not UNBOUNDED.search(template.source):
        answer(
            {"template": template.source, "tokens": template.tokens, "requests": [(MESSAGES, True), (MESSAGES, False)]}
        )
    path = FOLDER / "tokenizer.json"
    tokeniser = load_tokeniser(path)
    special_names(tokeniser)
    check_vocabulary(tokeniser, 300, str(path))
    end_of_document(tokeniser, str(path))
