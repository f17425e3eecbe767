"""What a check's docstring says of it: the form is that of `verify/checks/__init__.py`."""

import inspect
import textwrap
from typing import NamedTuple

from andon.verify.checks.table import Check
from andon.verify.run.report import RED, YELLOW


class Explanation(NamedTuple):
    """A check's docstring in its parts; what it does not have is empty."""

    title: str  # what is true of any correct implementation
    detail: str  # what more is to be said of that
    silent: str  # why training does not show a fault
    look: str  # where to look for it
    yellow: str  # where it turns yellow in place of red, and why; "Yellow alone" where it never turns red
    example: str  # code with the fault, from "# wrong: " on, and the same mended, from "# right" on
    reference: str  # the source


def explain(check: Check) -> Explanation:
    """What a check's docstring says: paragraphs are told by their first word, the rest is detail."""
    text, _, reference = (inspect.getdoc(check.function) or "").partition("\n\nReference:")
    text, _, example = text.partition("\n\nExample:\n")
    title, *paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    silent = " ".join(part for part in paragraphs if part.startswith("Silent"))
    look = " ".join(part for part in paragraphs if part.startswith("Look"))
    yellow = " ".join(part for part in paragraphs if part.startswith("Yellow"))
    detail = " ".join(part for part in paragraphs if not part.startswith(("Silent", "Look", "Yellow")))
    return Explanation(
        title, detail, silent, look, yellow, textwrap.dedent(example).strip(), " ".join(reference.split())
    )


def lights(check: Check) -> tuple[str, ...]:
    """Those that a check can turn, by its docstring: a paragraph "Yellow" says where, "Yellow alone" that it is all."""
    yellow = explain(check).yellow
    if not yellow:
        return (RED,)
    return (YELLOW,) if yellow.startswith("Yellow alone") else (RED, YELLOW)
