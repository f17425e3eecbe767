"""A file's statement lines and comments: what is counted, compared and silenced."""

import io
import tokenize
from typing import NamedTuple

SPACE = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)


class Line(NamedTuple):
    """A statement's line, or a comment: where it begins, and its text without the layout."""

    number: int
    text: str


def read_lines(source: str) -> tuple[list[Line], list[Line]]:
    """Statement lines without docstrings, however they are laid out, and comments."""
    statements, comments, tokens = [], [], []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.append(Line(token.start[0], token.string))
        elif token.type == tokenize.NEWLINE:
            if any(each.type != tokenize.STRING for each in tokens):
                statements.append(Line(tokens[0].start[0], " ".join(each.string for each in tokens)))
            tokens = []
        elif token.type not in SPACE:
            tokens.append(token)
    return statements, comments
