"""Where tables stand: pages, marks in them, and what is between replaced whole."""

import re
from collections.abc import Callable
from pathlib import Path

BLOCK = re.compile(r"<!-- table: ([a-z-]+) -->\n(.*?)<!-- /table -->", re.DOTALL)
OPENING = "<!-- table:"


class TableError(ValueError):
    """A page's marks cannot be followed; the message names the mark and the rule."""


def pages() -> list[Path]:
    """The Markdown files that may hold tables: README, and all in docs."""
    return [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]


def rewrite(text: str, known: dict[str, Callable[[], str]]) -> str:
    """The text with each table rewritten.

    Raises:
        TableError: a mark that is not closed, or of an unknown table.
    """

    def made(match: re.Match[str]) -> str:
        name, old = match.groups()
        if OPENING in old:
            raise TableError(f"<!-- table: {name} --> is not closed; end it with <!-- /table -->")
        if name not in known:
            raise TableError(f"<!-- table: {name} -->: no such table; known are {', '.join(known)}")
        return f"<!-- table: {name} -->\n{known[name]()}\n<!-- /table -->"

    found = BLOCK.sub(made, text)
    if found.count(OPENING) != len(BLOCK.findall(found)):
        raise TableError("a <!-- table: NAME --> is not closed, or not alone on its line; end it with <!-- /table -->")
    return found
