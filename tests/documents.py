"""The pages that people read: README, the guides in docs and their parts: commands, blocks of code, links, headings."""

import re
import textwrap
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_RUN = "# not run by our tests"  # or starts with another word, after the command
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
# In this order, as a later page goes on with what an earlier one has made.
FIRST = ("README.md", "docs/train.md", "docs/finetune.md")


def pages() -> list[Path]:
    """Every page, from the repository's root: README, guides, checks, measurements, decisions."""
    found = [ROOT / name for name in (*FIRST, "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*found, *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page not in found)]


def text_of(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """A page's blocks of a language, without the indentation of a list that they stand in."""
    return [textwrap.dedent(code) for _, name, code in FENCE.findall(text_of(page)) if name == language]


def shell_lines() -> list[str]:
    """The lines of all blocks of shell, with their comments."""
    return [line.strip() for page in pages() for block in blocks(page, "sh") for line in block.splitlines()]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", text_of(page))


def links(page: Path) -> list[str]:
    """What a page links to, pictures too."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchor(title: str) -> str:
    """A heading's name in a link, the same on GitHub and in the built site."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """The names that a page's headings have in links, on GitHub and in the built site."""
    titles = [title for _, title in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]
    names = [anchor(title) for title in titles]
    assert not [name for name, count in Counter(names).items() if count > 1], f"{page}: two headings of one name"
    return set(names)
