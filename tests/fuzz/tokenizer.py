"""A tokenizer's settings and its chat template, as this code reads and renders them."""

import re

from andon.core.data import chat, tokenizer
from andon.core.data.chat import ChatError, render_requests
from andon.core.data.tokenizer import TokenizerError, check_vocabulary, find_eos_id, load_tokenizer, special_tokens
from andon.core.formats import chat_template
from andon.core.formats.chat_template import load_template
from tests.fuzz.files import FOLDER, parts, present

REFUSALS = (ChatError, TokenizerError)
PARSER = {
    chat_template: (
        "load_template",
        "special_names",
        "_named_templates",
        "_read",
        "_fields",
        "_is_utf8",
        "_token",
    ),
    chat: ("render_requests", "_render_bounded", "Generation.parse", "_raise"),
    tokenizer: ("load_tokenizer", "id_count", "check_vocabulary", "find_eos_id", "special_tokens"),
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
        render_requests(
            {
                "templates": [template.tool_use or template.source, template.source],
                "tokens": template.tokens,
                "requests": [(MESSAGES, True, None, {}), (MESSAGES, False, None, {})],
            }
        )
    path = FOLDER / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    special_tokens(tokenizer)
    check_vocabulary(tokenizer, 300, str(path))
    find_eos_id(tokenizer, str(path))
